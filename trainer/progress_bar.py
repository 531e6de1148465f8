"""The bar in the terminal: loss, steps per second, time left. Where there is no terminal, a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

LINE_EVERY_SECONDS = 30


class ProgressBar:
    def __init__(self, steps: int, first_step: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.steps = steps
        self.printed_at = time.monotonic()
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.progress.add_task("", total=steps, completed=first_step)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(Text(text), soft_wrap=True)

    def advance(self, step: int, loss: float, seconds_per_step: float) -> None:
        text = progress_text(step, self.steps, loss, seconds_per_step)
        self.progress.update(self.task, completed=step, description=text)
        is_line_due = step == self.steps or time.monotonic() - self.printed_at > LINE_EVERY_SECONDS
        if not self.console.is_terminal and is_line_due:
            self.printed_at = time.monotonic()
            self.console.print(f"step {step} of {self.steps}: {text}")


def progress_text(step: int, steps: int, loss: float, seconds_per_step: float) -> str:
    minutes, seconds = divmod(round((steps - step) * seconds_per_step), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    speed = f"{1 / seconds_per_step:.2f} it/s" if seconds_per_step < 1 else f"{seconds_per_step:.2f} s/it"
    return f"loss {loss:.4f}, {speed}, {left} left"
