"""The learning rate over the steps, as a factor of its peak: it rises, stays, and falls. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainer.config_learning import ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """`decay`: the last share of the steps after warm-up, in which it falls `cycles` times, each time from the peak."""

    kind: ScheduleKind
    warmup_steps: int
    steps: int
    cycles: int = 1
    decay: float = 1.0

    def factor(self, step: int) -> float:
        """Of the peak, at a step counted from 1: linear up to 1 at the last warm-up step, then a row of `FALLS` at u.

        t runs from 0 at the first step after warm-up towards 1; the last step has it just below 1, and still learns.
        The fall begins at t = 1 - decay (linear and a decay of 0.2 are warmup-stable-decay, arXiv 2404.06395), and u is
        what cycles * (t - 1 + decay) / decay is above a whole number (cosine: warm restarts, arXiv 1608.03983).
        """
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        t = (step - self.warmup_steps - 1) / max(self.steps - self.warmup_steps, 1)
        fallen = self.cycles * max(t - (1 - self.decay), 0.0) / self.decay
        return FALLS[self.kind](fallen - math.floor(fallen + 1e-9))  # a hair below a restart is the restart


def constant(u: float) -> float:
    return 1.0


def linear(u: float) -> float:
    """1 - u"""
    return 1 - u


def cosine(u: float) -> float:
    """(1 + cos(pi u)) / 2 (arXiv 1608.03983, eq. 5)"""
    return (1 + math.cos(math.pi * u)) / 2


def rex(u: float) -> float:
    """(1 - u) / (1 - u / 2) (arXiv 2107.04197): above the line all the time, steepest at the end"""
    return (1 - u) / (1 - u / 2)


FALLS: Mapping[ScheduleKind, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "rex": rex,
}
