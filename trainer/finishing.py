"""The adapter of a run as files in its exports, each proven: those its kind needs, or those somebody asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.events import EventLog, Exported, PhaseName, Warned
from trainer.export import Exported as ProvenFile
from trainer.export import UnprovenError
from trainer.export_targets import ExportTarget
from trainer.run_dir import RunDir

Export = Callable[[ExportTarget, Path], ProvenFile]
Report = Callable[[PhaseName, int, int], None]  # phase, done, total


def export_all(run: RunDir, targets: Sequence[ExportTarget], stem: str, export: Export, report: Report) -> None:
    """Files named `stem` and the target's ending in the run's exports; an event for each, a warning for one that fails.

    Raises UnprovenError where all do, and whatever `report` raises between two of them.
    """
    events, unproven = EventLog(run.events_file), list[UnprovenError]()
    for done, target in enumerate(targets):
        report("exporting", done, len(targets))
        try:
            proven = export(target, run.exports_dir / f"{stem}{target.ending}")
        except UnprovenError as error:
            unproven.append(error)
            events.append(Warned(text=str(error)))
            print(error, flush=True)
        else:
            file = proven.path.relative_to(run.path).as_posix()
            events.append(Exported(file=file, headline=proven.report.headline))
            print(f"{file}: {proven.report.headline}", flush=True)
    if len(unproven) == len(targets):
        raise unproven[0]
