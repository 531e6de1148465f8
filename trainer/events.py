"""What a run reports while it runs: events.jsonl and metrics.jsonl, one JSON object a line. README.md has the schema.

A line is appended with a single write, so a reader sees whole lines or an unfinished last one, which it leaves for the
next read. Lines that are damaged, or of a kind or version from the future, are skipped, never an error.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

VERSION = 1
T = TypeVar("T")


def _encodable(text: object) -> object:
    """File names of Linux may hold bytes that are no UTF-8; JSON cannot."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_encodable)]
PhaseName = Literal[
    "starting", "waiting", "checking", "loading", "class pictures", "caching", "training", "sampling", "saving",
    "exporting",
]  # fmt: skip


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = VERSION
    at: float = Field(default_factory=time.time, description="seconds since 1970, UTC")
    uptime: float = Field(
        default_factory=time.monotonic,
        description="seconds by the machine's own clock, which nobody sets; all its processes share it",
    )


class Started(_Line):
    """A process took the run's lock. It and nothing before it tells what the run is doing now."""

    kind: Literal["started"] = "started"
    steps: int = Field(description="the step that the run ends with")
    first_step: int = Field(default=0, description="steps already done, when resumed")
    device: Text = "cpu"
    host: Text = ""
    pid: int
    create_time: float = Field(description="of the process; with the pid its identity")


class Phase(_Line):
    """What the run does from now on; of the longer ones, how far it is."""

    kind: Literal["phase"] = "phase"
    name: PhaseName
    done: int = 0
    total: int = 0
    detail: Text = Field(default="", description="a sentence that says more than the name")


class Sampled(_Line):
    kind: Literal["sampled"] = "sampled"
    step: int
    folder: Text = Field(description="relative to the run directory")


class Saved(_Line):
    kind: Literal["saved"] = "saved"
    step: int
    folder: Text = Field(description="relative to the run directory")


class Exported(_Line):
    kind: Literal["exported"] = "exported"
    file: Text = Field(description="relative to the run directory")
    headline: Text = Field(description="of the parity report, one sentence")


class Renamed(_Line):
    """An exported file has another name."""

    kind: Literal["renamed"] = "renamed"
    file: Text = Field(description="relative to the run directory")
    to: Text = Field(description="likewise")


class Warned(_Line):
    kind: Literal["warned"] = "warned"
    text: Text


class SkippedStep(_Line):
    """The optimizer step was left out, so the weights are as before."""

    kind: Literal["skipped_step"] = "skipped_step"
    step: int
    reason: Text
    pictures: tuple[Text, ...] = ()


class Stopping(_Line):
    kind: Literal["stopping"] = "stopping"
    step: int


class Stopped(_Line):
    kind: Literal["stopped"] = "stopped"
    step: int


class Paused(_Line):
    kind: Literal["paused"] = "paused"
    step: int


class Resumed(_Line):
    """Ends a pause. (A run taken up again by a new process begins with Started.)"""

    kind: Literal["resumed"] = "resumed"
    step: int


class Failed(_Line):
    kind: Literal["failed"] = "failed"
    category: Text = "unknown"
    sentence: Text = Field(description="what went wrong")
    fix: Text = Field(default="", description="what to do about it")
    trace: Text = ""


class Finished(_Line):
    """All steps done and the adapter exported."""

    kind: Literal["finished"] = "finished"
    step: int


Event = Annotated[
    Started | Phase | Sampled | Saved | Exported | Renamed | Warned | SkippedStep | Stopping | Stopped | Paused
    | Resumed | Failed | Finished,
    Field(discriminator="kind"),
]  # fmt: skip


class StepMetrics(_Line):
    """One optimizer step. A value that is not a finite number is null."""

    step: int = Field(description="1 is the first")
    loss: float | None
    learning_rates: dict[str, float] = Field(default_factory=dict, description="by parameter group")
    seconds: float = Field(description="this step took, by a clock that nobody sets")
    band_losses: tuple[float | None, ...] = Field(
        default=(), description="mean squared error, unweighted, by quarter of the noise schedule; null: no picture"
    )
    validation_loss: float | None = None
    validation_band_losses: tuple[float | None, ...] = ()
    peak_mib: float | None = Field(default=None, description="memory of the device, highest since the start")
    skipped: bool = False
    update_norms: dict[str, float | None] = Field(default_factory=dict, description="norm of the update by block")
    magnitude_drift: float | None = Field(default=None, description="DoRA: mean of |m / norm(W0) - 1|")


_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_METRICS: TypeAdapter[StepMetrics] = TypeAdapter(StepMetrics)


class EventLog:
    """Appends to events.jsonl. Raises OSError when the disk is full; what was there before stays readable."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: Event) -> None:
        append_line(self.path, event.model_dump_json().encode())


class MetricsLog:
    """Appends to metrics.jsonl, as EventLog does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: StepMetrics) -> None:
        append_line(self.path, row.model_dump_json().encode())


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The events of the whole lines from a byte offset on, and the offset to read from next time."""
    return _read(path, offset, _EVENT)


def read_metrics(path: Path, offset: int = 0) -> tuple[list[StepMetrics], int]:
    """As read_events. After a resume steps repeat: of two rows with one step the later one counts."""
    return _read(path, offset, _METRICS)


def read_last_metrics(path: Path, tail_bytes: int = 65536) -> list[StepMetrics]:
    """The rows near the end of the file, however long it has grown."""
    size = path.stat().st_size if path.exists() else 0
    return _read(path, max(0, size - tail_bytes), _METRICS)[0]


def last_values(rows: Sequence[StepMetrics]) -> dict[int, StepMetrics]:
    """The rows that count, by step, in the order of the steps."""
    return dict(sorted({row.step: row for row in rows}.items()))


def append_line(path: Path, line: bytes) -> None:
    """Append one line with one write; a torn line that a crash or a full disk left there is closed off first."""
    with open(path, "a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        written = file.write(line + b"\n")
    if written != len(line) + 1:
        # A disk that fills up takes the part that fits, and gives the reason to the next write only.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _read(path: Path, offset: int, adapter: TypeAdapter[T]) -> tuple[list[T], int]:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data.rfind(b"\n") + 1
    parsed = (_parse(line, adapter) for line in data[:whole].split(b"\n"))
    return [line for line in parsed if line is not None], offset + whole


def _parse(line: bytes, adapter: TypeAdapter[T]) -> T | None:
    try:
        return adapter.validate_json(line)
    except ValidationError:
        return None
