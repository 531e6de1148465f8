"""How near pictures come to the true ones of either style: how demo and bench tell whether a style was learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trainer.components import Components
from trainer.data.latents import scaled_latents

COARSE_PX = 16  # fine outlines, which no two drawings share, do not count at this size


@dataclass(frozen=True)
class HeldOut:
    """A thing that the set does not contain, drawn in both styles."""

    caption: str
    flat: Image.Image
    solid: Image.Image


def read_held_out(folder: Path) -> list[HeldOut]:
    """From ``NAME.txt`` with ``NAME.flat.jpg`` and ``NAME.3d.jpg``, by name."""
    return [
        HeldOut(
            text.read_text(encoding="utf-8").strip(),
            Image.open(text.with_suffix(".flat.jpg")).convert("RGB"),
            Image.open(text.with_suffix(".3d.jpg")).convert("RGB"),
        )
        for text in sorted(folder.glob("*.txt"))
    ]


Seen = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Likeness:
    """Euclidean distances of what is `seen` of one drawn picture and of its two true ones."""

    to_flat: float
    to_solid: float
    between: float  # the two true ones

    @property
    def is_nearer(self) -> bool:
        return self.to_solid < self.to_flat

    @property
    def closeness(self) -> float:
        """1: the 3D picture itself. 0: as far from it as the flat one is. Below: farther."""
        return 1 - self.to_solid / self.between

    @property
    def lean(self) -> float:
        """1: the 3D picture itself. -1: the flat one. 0: as far from one as from the other, however far that is."""
        return (self.to_flat - self.to_solid) / self.between


def likeness(drawn: Sequence[Image.Image], truths: Sequence[HeldOut], seen: Seen) -> list[Likeness]:
    return [
        Likeness(
            _distance(seen, picture, truth.flat),
            _distance(seen, picture, truth.solid),
            _distance(seen, truth.flat, truth.solid),
        )
        for picture, truth in zip(drawn, truths, strict=True)
    ]


def nearer_to_solid(drawn: Sequence[Image.Image], truths: Sequence[HeldOut], seen: Seen) -> float:
    """The share of the drawn pictures that are nearer to their 3D truth than to the flat one."""
    return sum(one.is_nearer for one in likeness(drawn, truths, seen)) / len(drawn)


def coarse(components: Components, side_px: int = COARSE_PX) -> Seen:
    """The colours of a picture, each cell the mean of its area."""
    return lambda picture: _pixels(components, picture, side_px)


def latents(components: Components, side_px: int) -> Seen:
    """What the model's own VAE makes of a picture at that size."""
    vae = components.vae

    def seen(picture: Image.Image) -> Tensor:
        pixels = _pixels(components, picture, side_px).to(vae.device, vae.dtype)
        with torch.no_grad():
            return scaled_latents(vae, pixels)

    return seen


def _pixels(components: Components, picture: Image.Image, side_px: int) -> Tensor:
    small = picture.resize((side_px, side_px), Image.Resampling.BOX)
    processor = components.pipeline.image_processor
    return processor.numpy_to_pt(processor.pil_to_numpy(small)) * 2 - 1


def _distance(seen: Seen, one: Image.Image, other: Image.Image) -> float:
    return float((seen(one) - seen(other)).norm())
