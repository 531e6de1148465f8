"""Requests made at a moment that a test names: right after the run has written a certain line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.events import EventLog, MetricsLog, Phase, StepMetrics
from trainer.run_dir import Request, RunDir


def request_at(monkeypatch: pytest.MonkeyPatch, run: RunDir, what: Request, is_time: Callable[[object], bool]) -> None:
    """Ask the run for something, once, when a line of its events or metrics is one that `is_time` holds for."""
    asked: list[object] = []
    for log in (EventLog, MetricsLog):
        write = log.append

        def append(self: EventLog | MetricsLog, line: object, write: Callable[..., None] = write) -> None:
            write(self, line)
            if self.path.parent == run.path and not asked and is_time(line):
                asked.append(line)
                run.request(what)

        monkeypatch.setattr(log, "append", append)


def at_step(number: int) -> Callable[[object], bool]:
    return lambda line: isinstance(line, StepMetrics) and line.step == number


def at_phase(name: str, done: int = 0) -> Callable[[object], bool]:
    return lambda line: isinstance(line, Phase) and line.name == name and line.done >= done
