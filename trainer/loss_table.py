"""Where the losses of a run are, as a table for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from trainer.events import last_values, read_metrics
from trainer.losses import LossLine, loss_lines
from trainer.run_dir import RunDir


def print_losses(run: RunDir, console: Console) -> None:
    """Nothing before the first step."""
    rows = list(last_values(read_metrics(run.metrics_file)[0]).values())
    if not rows:
        return
    table = Table("timesteps", "loss, smoothed", "validation, first", "last", box=None)
    for line in loss_lines(rows):
        table.add_row(*_cells(line))
    console.print(table)


def _cells(line: LossLine) -> tuple[str, ...]:
    return line.title, *("" if value is None else f"{value:.4f}" for value in (line.smoothed, line.first, line.last))
