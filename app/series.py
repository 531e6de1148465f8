"""metrics.jsonl as curves of a few hundred points: read from where the last look ended, kept while it is looked at.

A run taken up again repeats steps. The later row counts, and what came after it in the file's first telling is gone:
the curve goes back to where the run did.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from trainer.events import StepMetrics
from trainer.losses import BANDS, ByBand

MOST_BUCKETS = 300  # two points each, the lowest and the highest
MOST_STEPS = 1_000_000  # of a run, by its settings; a damaged row must not make us take all memory
CHUNK_BYTES = 2**20
KEPT = 32  # files
RECENT = 50  # steps that the card's loss is the mean of
NAN = float("nan")
Points = list[float | None]


@dataclass
class Series:
    """What was read of one metrics file. A loss that is missing is NaN; `loss[0]` is that of step 1."""

    path: Path
    inode: int = 0
    offset: int = 0
    loss: array[float] = field(default_factory=lambda: array("d"))
    bands: tuple[array[float], ...] = field(default_factory=lambda: tuple(array("d") for _ in BANDS))
    validation: dict[int, tuple[float, ByBand]] = field(default_factory=dict[int, tuple[float, ByBand]])
    last: StepMetrics | None = None
    health: StepMetrics | None = None  # the newest row with norms in it

    def read(self) -> None:
        """Take in what was appended since; begin anew with another file."""
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            self._begin(0)
            return
        if stat.st_ino != self.inode or stat.st_size < self.offset:
            self._begin(stat.st_ino)
        if stat.st_size > self.offset:
            for row in self._rows():
                self._add(row)

    def look(self) -> Look:
        recent = [value for value in self.loss[-RECENT:] if value == value]
        return Look(self.curve(), sum(recent) / len(recent) if recent else None, self.last, self.health)

    def curve(self) -> dict[str, Any]:
        """`low`, `high` and `mean` of every `width` steps from step 1 on, and the validation losses by step.

        `bands`: a title, the means, and the validation losses, all timesteps of a band together.
        """
        width = 1
        while width * MOST_BUCKETS < len(self.loss):
            width *= 2
        filled = _buckets(self.loss, width)
        curve = {"steps": len(self.loss), "width": width, "mean": _points(_means(filled))}
        if width > 1:
            curve |= {"low": _points(np.fmin.reduce(filled, axis=1)), "high": _points(np.fmax.reduce(filled, axis=1))}
        steps = sorted(self.validation)
        kept = {step: self.validation[step] for step in steps[:: -(-len(steps) // MOST_BUCKETS) or 1]}
        return curve | {
            "validation": [[step, _short(value)] for step, (value, _) in kept.items()],
            "bands": [self._band(place, title, width, kept) for place, title in enumerate(BANDS)]
            if self._has_bands
            else [],
        }

    @property
    def _has_bands(self) -> bool:
        return any(np.isfinite(band).any() for band in self.bands)

    def _band(
        self, place: int, title: str, width: int, validation: Mapping[int, tuple[float, ByBand]]
    ) -> dict[str, Any]:
        checked = [(step, bands[place]) for step, (_, bands) in validation.items() if len(bands) == len(BANDS)]
        return {
            "name": title,
            "mean": _points(_means(_buckets(self.bands[place], width))),
            "validation": [[step, _short(value)] for step, value in checked if value is not None],
        }

    def _begin(self, inode: int) -> None:
        self.inode, self.offset = inode, 0
        self.loss, self.bands, self.validation = array("d"), tuple(array("d") for _ in BANDS), {}
        self.last = self.health = None

    def _rows(self) -> Generator[StepMetrics, None, None]:
        """The rows of the whole lines from the offset on, a piece of the file at a time."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            rest = b""
            while piece := file.read(CHUNK_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self.offset += len(line) + 1
                    try:
                        yield StepMetrics.model_validate_json(line)
                    except ValidationError:  # damaged, or of a later version
                        continue

    def _add(self, row: StepMetrics) -> None:
        if not 1 <= row.step <= MOST_STEPS:
            return
        if row.step <= len(self.loss):
            self.validation = {step: value for step, value in self.validation.items() if step < row.step}
        bands = row.band_losses if len(row.band_losses) == len(BANDS) else (None,) * len(BANDS)
        for values, value in zip((self.loss, *self.bands), (row.loss, *bands), strict=True):
            del values[row.step - 1 :]
            values.extend([NAN] * (row.step - 1 - len(values)))
            values.append(NAN if value is None else value)
        if row.validation_loss is not None:
            self.validation[row.step] = row.validation_loss, row.validation_band_losses
        self.last = row
        if row.update_norms:
            self.health = row


@dataclass(frozen=True)
class Look:
    """A metrics file at one moment."""

    curve: dict[str, Any]
    recent_loss: float | None
    last: StepMetrics | None
    health: StepMetrics | None


@dataclass
class Shelf:
    """The files that were asked for last, beside how they looked."""

    kept: OrderedDict[Path, tuple[Series, tuple[int, int], Look]] = field(
        default_factory=OrderedDict[Path, tuple[Series, tuple[int, int], Look]]
    )
    lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, path: Path) -> Look:
        """The file as it is now."""
        with self.lock:
            before = self.kept.pop(path, None)
            found = before[0] if before else Series(path)
            found.read()
            read = found.inode, found.offset
            look = before[2] if before and before[1] == read else found.look()
            self.kept[path] = found, read, look
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
            return look


@cache
def shelf() -> Shelf:
    """The one of this process."""
    return Shelf()


def _buckets(values: array[float], width: int) -> np.ndarray[Any, Any]:
    """(buckets, width), the last one filled up with NaN."""
    return np.concatenate([np.array(values), np.full(-len(values) % width, NAN)]).reshape(-1, width)


def _means(buckets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of what is a number in each; NaN where nothing is."""
    present = np.isfinite(buckets)
    counts = present.sum(axis=1)
    sums = np.where(present, buckets, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), NAN)


def _points(values: np.ndarray[Any, Any]) -> Points:
    return [_short(float(value)) for value in values]


def _short(value: float) -> float | None:
    """Four digits are more than a screen shows."""
    return float(f"{value:.4g}") if value == value and abs(value) != float("inf") else None
