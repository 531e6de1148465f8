"""What a run leaves when all its steps are done: its adapter in every file that its kind needs, each proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dora_core.spec import Form
from trainer.events import EventLog, Exported, PhaseName, Warned
from trainer.export import Exported as ProvenFile
from trainer.export import UnprovenError
from trainer.export_targets import ExportTarget, finishing_targets
from trainer.run_dir import RunDir

Export = Callable[[ExportTarget, Path], ProvenFile]
Report = Callable[[PhaseName, int, int], None]  # phase, done, total


def export_all(run: RunDir, form: Form, stem: str, export: Export, report: Report) -> None:
    """Files named `stem` and the target's ending in the run's exports; an event for each, a warning for one that fails.

    Raises UnprovenError where all do, and whatever `report` raises between two of them.
    """
    events, targets = EventLog(run.events_file), finishing_targets(form)
    unproven: list[UnprovenError] = []
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
