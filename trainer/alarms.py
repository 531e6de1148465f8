"""Signs that a run goes wrong although every number in it is finite; told once each, while something can be done."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from trainer.events import StepMetrics

WINDOW = 100  # losses of single steps differ by their timesteps a hundredfold: only many together say something
RISE = 3.0  # of a window's median above the lowest before; log-normal noise of spread 1.3 gave 2.6 in 11,700 windows
VALIDATION_RISE = 1.5  # the same pictures, noise and timesteps each time: chance has no part in it
# Half a unit in the last place of float16: what most programs round the changed weights to.
FAINT = 2**-11


@dataclass
class Alarms:
    """What the rows of this process' steps have shown so far."""

    losses: list[float] = field(default_factory=list)
    lowest_median: float = float("inf")
    lowest_validation: float = float("inf")
    has_told: bool = False

    def heed(self, row: StepMetrics) -> str:
        """Empty, or what the row gives reason to say."""
        risen = self._risen(row)
        if not risen or self.has_told:
            return ""
        self.has_told = True
        rate = max(row.learning_rates.values(), default=0.0)
        return (
            f"{risen}: it unlearns. The learning rate, now {rate:.3g}, is probably too high; stop, and begin a new run "
            "with a third of it."
        )

    def _risen(self, row: StepMetrics) -> str:
        if row.validation_loss is not None:
            before, self.lowest_validation = self.lowest_validation, min(self.lowest_validation, row.validation_loss)
            if row.validation_loss > VALIDATION_RISE * before:
                return f"The validation loss has risen from {before:.3g} to {row.validation_loss:.3g}"
        if row.loss is not None:
            self.losses.append(row.loss)
        if len(self.losses) < WINDOW:
            return ""
        median = statistics.median(self.losses)
        self.losses.clear()
        before, self.lowest_median = self.lowest_median, min(self.lowest_median, median)
        if median > RISE * before:
            return f"The loss has risen from {before:.3g} to {median:.3g} (medians of {WINDOW} steps)"
        return ""


def faintness(relative_change: float) -> str:
    """Empty, or that an adapter changes next to nothing; `relative_change`: norm(W' - W0) / norm(W0)."""
    if relative_change >= FAINT:
        return ""
    return (
        f"The adapter changes the weights by {relative_change:.2g} of their size, which is lost where a program rounds "
        f"them to float16 ({FAINT:.2g}): it will hardly show. Train longer or with a higher optim.learning_rate."
    )
