"""Which sizes training pictures have, and how a picture of any shape becomes one of them: none is dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

CUTS = (2, 0, 1, 3, 4)  # quarters of what a cut can be moved by; the middle first


@dataclass(frozen=True, order=True)
class Bucket:
    """A size that pictures are trained at, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Placement:
    """How a picture gets into its bucket: scaled to cover it, mirrored or not, then cut to it."""

    bucket: Bucket
    scaled: tuple[int, int]  # width, height in pixels
    left: int  # of the cut, in the picture as it is then
    top: int
    is_mirrored: bool = False

    @property
    def kept(self) -> float:
        """Share of the picture's area that is left after the cut."""
        return self.bucket.width * self.bucket.height / math.prod(self.scaled)


def make_buckets(resolution_px: int, step_px: int, ratio: float) -> tuple[Bucket, ...]:
    """All sizes in multiples of `step_px` with about `resolution_px` squared pixels, never more, up to `ratio` long.

    A resolution below the step gives one square of the step.
    """
    side = max(resolution_px // step_px, 1)
    pixels = max((resolution_px / step_px) ** 2, 1)
    buckets: set[Bucket] = set()
    for short in range(1, side + 1):
        long = max(int(pixels / short), short)
        if long <= ratio * short:
            buckets |= {
                Bucket(long * step_px, short * step_px),
                Bucket(short * step_px, long * step_px),
            }
    return tuple(sorted(buckets | {Bucket(side * step_px, side * step_px)}))


def place(width: int, height: int, buckets: Sequence[Bucket]) -> Placement:
    """The bucket nearest in shape, by the ratio of the ratios (of equally near ones the larger), cut in the middle."""
    shape = math.log(width / height)
    bucket = min(buckets, key=lambda b: (abs(math.log(b.width / b.height) - shape), -b.width * b.height))
    scale = max(bucket.width / width, bucket.height / height)
    scaled = (max(round(width * scale), bucket.width), max(round(height * scale), bucket.height))
    return Placement(bucket, scaled, (scaled[0] - bucket.width) // 2, (scaled[1] - bucket.height) // 2)


def variants(middle: Placement, is_cut_varied: bool, is_mirrored_too: bool) -> tuple[Placement, ...]:
    """Every way in which a picture is shown, `middle` first: cut at five places along its longer side, and mirrored."""
    spare = (middle.scaled[0] - middle.bucket.width, middle.scaled[1] - middle.bucket.height)
    places = [(spare[0] * quarters // 4, spare[1] * quarters // 4) for quarters in CUTS]
    cuts = [replace(middle, left=left, top=top) for left, top in dict.fromkeys(places)] if is_cut_varied else [middle]
    mirrored = [replace(cut, is_mirrored=True) for cut in cuts] if is_mirrored_too else []
    return (*cuts, *mirrored)
