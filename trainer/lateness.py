"""Whether a run that says nothing may have hung: a warning for people, nothing more. No run is ended for it.

A sign of life is a line in the events or metrics. Its age is told by the machine's own clock (`uptime` in the lines),
which runs on when somebody sets the time of day and, on Linux and macOS, stands still while a laptop sleeps. The
clocks of two machines have nothing in common, so a run is judged on the machine that it runs on.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.events import Event, PhaseName, Started, StepMetrics

# How long a phase may say nothing. Class pictures, caching, sampling and exporting speak up at every picture and file.
ALLOWED_SECONDS: Mapping[PhaseName, float] = {
    "starting": 600,
    "waiting": math.inf,
    "checking": 600,
    "loading": 600,
    "class pictures": 600,
    "caching": 600,
    "training": 300,  # the first step, which may compile
    "sampling": 600,
    "saving": 600,
    "exporting": 1800,  # a file of the largest family, checked on a processor
}
LEAST_STEP_SECONDS = 60.0
STEPS_OF_SILENCE = 20  # validation, and a computer that others use as well


@dataclass(frozen=True)
class Clock:
    """A machine, and its time by a clock that nobody sets."""

    host: str
    uptime: float

    @staticmethod
    def now() -> Clock:
        return Clock(socket.gethostname(), time.monotonic())


@dataclass(frozen=True)
class Silence:
    """How long nothing was heard of a run, and how long that is nothing to worry about."""

    seconds: float
    allowed_seconds: float

    @property
    def late_seconds(self) -> float:
        return max(0.0, self.seconds - self.allowed_seconds)


def allowed_seconds(phase: PhaseName, seconds_per_step: float | None) -> float:
    """`seconds_per_step`: median of this process' steps; None before the first."""
    if phase != "training" or seconds_per_step is None:
        return ALLOWED_SECONDS[phase]
    return max(LEAST_STEP_SECONDS, STEPS_OF_SILENCE * seconds_per_step)


def silence(
    events: Sequence[Event], metrics: Sequence[StepMetrics], phase: PhaseName, speed: float | None, clock: Clock
) -> Silence | None:
    """Of a living run; None where its process has said nothing at all yet, or is one of another machine."""
    begun = next((event for event in reversed(events) if isinstance(event, Started)), None)
    if begun is None or begun.host != clock.host:
        return None
    # Rows from before a restart of the machine count from another zero; one that falls between by chance only makes
    # the run look more alive than it is.
    own = [row.uptime for row in metrics if begun.uptime <= row.uptime <= clock.uptime]
    heard = max([events[-1].uptime, *own])
    return Silence(clock.uptime - heard, allowed_seconds(phase, speed if own else None))
