"""What a run has to show: its exported file, and what was measured while it trained. Free of torch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from trainer.events import Exported, Finished, Phase, Renamed, last_values, read_events, read_metrics
from trainer.failures import ExplainedError
from trainer.run_dir import RunDir


class NothingExportedError(ExplainedError):
    """A run without a file to compare."""

    category = "missing file"


def exported(run: RunDir) -> Exported:
    """The first file that the run was exported to when it last finished; raises NothingExportedError."""
    begun = found = None
    for event in read_events(run.events_file)[0]:
        match event:
            case Phase(name="exporting", done=0):
                begun = None  # what a job exported before is another file
            case Exported():
                begun = begun or event
            case Finished():
                found = begun
            case Renamed() if found is not None and event.file == found.file:
                found = found.model_copy(update={"file": event.to})
            case _:
                pass
    if found is None:
        raise NothingExportedError(
            f"{run.id} has not finished, so it has no exported file.",
            f"Let it finish, or name a checkpoint: {run.id}@STEP.",
        )
    return found


@dataclass(frozen=True)
class Figures:
    """Of a training; None: nobody measured it."""

    seconds_per_step: float | None = None  # the median
    peak_mib: float | None = None
    validation_loss: float | None = None  # the last


def figures(run: RunDir, steps: int) -> Figures:
    """Of the run's first `steps` steps; a step that was done twice counts as it was done last."""
    rows = [row for step, row in last_values(read_metrics(run.metrics_file)[0]).items() if step <= steps]
    if not rows:
        return Figures()
    losses = [row.validation_loss for row in rows if row.validation_loss is not None]
    return Figures(
        seconds_per_step=statistics.median(row.seconds for row in rows),
        peak_mib=max((row.peak_mib for row in rows if row.peak_mib is not None), default=None),
        validation_loss=losses[-1] if losses else None,
    )
