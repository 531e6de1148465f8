"""A run followed from its folder, by whoever likes: one line in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trainer.progress_bar import LINE_EVERY_SECONDS, progress_text
from trainer.run_dir import RunDir
from trainer.status import RunStatus
from trainer.store import Store

POLL_SECONDS = 0.5


def follow(store: Store, run: RunDir, console: Console) -> RunStatus:
    """Print what the run does until it does nothing any more; returns how it ended. Raises RunGoneError."""
    show = _in_place if console.is_terminal else _line_by_line
    return show(statuses(store, run), console)


def statuses(store: Store, run: RunDir) -> Iterator[RunStatus]:
    """What the run does, again and again; the last is how it ended."""
    while True:
        status = store.status(run)
        yield status
        if not status.is_live and status.state != "queued":
            return
        time.sleep(POLL_SECONDS)


def line_of(status: RunStatus) -> str:
    """The state, how far it is, and what there is to say."""
    parts = [status.state]
    if status.steps:
        parts.append(f"step {status.step} of {status.steps}")
    if status.state == "training" and status.loss is not None and status.seconds_per_step:
        parts.append(progress_text(status.step, status.steps, status.loss, status.seconds_per_step))
    return "  ".join(parts) + f": {status.message} {status.fix}".rstrip()


def _in_place(told: Iterator[RunStatus], console: Console) -> RunStatus:
    status = next(told)
    with Live(Text(line_of(status)), console=console, auto_refresh=False) as live:
        for status in told:
            live.update(Text(line_of(status)), refresh=True)
    return status


def _line_by_line(told: Iterator[RunStatus], console: Console) -> RunStatus:
    """A line when something else begins, and one every half a minute."""
    status = next(told)
    console.print(Text(line_of(status)), soft_wrap=True)
    printed_at, before = time.monotonic(), status
    for status in told:
        is_news = (status.state, status.phase) != (before.state, before.phase)
        if is_news or time.monotonic() - printed_at > LINE_EVERY_SECONDS:
            console.print(Text(line_of(status)), soft_wrap=True)
            printed_at, before = time.monotonic(), status
    return status
