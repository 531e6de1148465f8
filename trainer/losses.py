"""Losses that can be read: by how much noise there was, and smoothed.

A loss of one step says little, since its timesteps were drawn by chance and little noise has a hundred times the error
of much. Bands are equal parts of the noise schedule, from the picture to noise alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.events import StepMetrics

BANDS = ("0-25 %", "25-50 %", "50-75 %", "75-100 %")
KEEP = 0.98  # of the average at each step: about the last 50 count
ByBand = tuple[float | None, ...]  # None: no picture was in that band


def band_sums(errors: Iterable[float], timesteps: Iterable[int], schedule_steps: int) -> list[float]:
    """Sums of the errors of single pictures, each at its timestep, in every band; then how many there were in each."""
    sums, counts = [0.0] * len(BANDS), [0.0] * len(BANDS)
    for error, timestep in zip(errors, timesteps, strict=True):
        band = timestep * len(BANDS) // schedule_steps
        sums[band] += error
        counts[band] += 1
    return sums + counts


def band_means(sums: Sequence[float]) -> ByBand:
    """From what `band_sums` gives, or the sum of several such."""
    sums, counts = sums[: len(BANDS)], sums[len(BANDS) :]
    return tuple(total / count if count else None for total, count in zip(sums, counts, strict=True))


def smoothed(values: Iterable[float | None], keep: float = KEEP) -> float | None:
    """Exponential mean at the last value, without the pull to its start; what is missing leaves it as it was.

    m_k = keep m_{k-1} + (1 - keep) x_k, divided by 1 - keep^k (Adam, arXiv 1412.6980, section 3).
    """
    mean, weight = 0.0, 0.0
    for value in values:
        if value is not None:
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
    return mean / weight if weight else None


@dataclass(frozen=True)
class LossLine:
    """Where a loss is by now; `first`, `last`: validation losses. None: there is none."""

    title: str
    smoothed: float | None
    first: float | None
    last: float | None


def loss_lines(rows: Sequence[StepMetrics]) -> list[LossLine]:
    """All timesteps together, then every band; without the bands in runs from before there were any."""
    checked = [row for row in rows if row.validation_loss is not None]
    ends = (checked[0], checked[-1]) if checked else ()
    lines = [LossLine("all", smoothed(row.loss for row in rows), *_pair([row.validation_loss for row in ends]))]
    if not any(row.band_losses for row in rows):
        return lines
    for band, title in enumerate(BANDS):
        validation = _pair([_in(row.validation_band_losses, band) for row in ends])
        lines.append(LossLine(title, smoothed(_in(row.band_losses, band) for row in rows), *validation))
    return lines


def _in(losses: ByBand, band: int) -> float | None:
    return losses[band] if band < len(losses) else None


def _pair(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    return (values[0], values[-1]) if values else (None, None)
