"""Pictures as training examples, in an order that follows from a seed: any batch can be had by its number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from trainer.config_data import ImageSetConfig
from trainer.data.buckets import Bucket, Placement
from trainer.data.masks import Mask, open_mask
from trainer.data.report import DatasetReport
from trainer.data.scan import Picture, open_upright
from trainer.data.wording import plain, vary, wordings
from trainer.seeds import chance, generator
from trainer.text import Framing

Purpose = Literal["instance", "prior", "prior-prediction"]
LATENT_PX = 8  # side of what one latent stands for


@dataclass(frozen=True)
class Example:
    """A picture, its caption as it was read, and the ways in which it is shown, the plain one first."""

    picture: Picture
    caption: str
    placements: tuple[Placement, ...]
    settings: ImageSetConfig
    mask: Mask | None = None

    @property
    def bucket(self) -> Bucket:
        return self.placements[0].bucket

    def framing(self, placement: Placement) -> Framing:
        """left and top in the mirrored picture, where it is mirrored: so a UNet is told what it sees."""
        return Framing(
            original_px=(self.picture.width, self.picture.height),
            crop_px=(placement.left, placement.top),
            size_px=(placement.bucket.width, placement.bucket.height),
        )


@dataclass(frozen=True)
class View:
    """One placement of an example: latents: (channels, height / 8, width / 8); pixel_weights: (1, the same), mean 1."""

    latents: Tensor
    pixel_weights: Tensor


@dataclass(frozen=True)
class Batch:
    """latents: (batch, channels, height / 8, width / 8), one caption, framing, file name and weight each.

    pixel_weights: (batch, 1, height / 8, width / 8), of mean 1 in each picture. keeps_base: what the base model
    predicts is the target.
    """

    latents: Tensor
    captions: tuple[str, ...]
    framings: tuple[Framing, ...]
    names: tuple[str, ...]
    weights: Tensor
    pixel_weights: Tensor
    keeps_base: bool = False


@dataclass(frozen=True)
class BatchOrder:
    """Batches of one bucket each, shuffled anew in every pass; a last one is filled up from its bucket.

    `groups`: the examples of each bucket, by index.
    """

    groups: tuple[tuple[int, ...], ...]
    batch_size: int
    seed: int
    purpose: Purpose

    @property
    def batches_per_pass(self) -> int:
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def batch(self, number: int) -> tuple[int, ...]:
        """Indices of the examples in batch `number`, counted from 0 through all passes."""
        passes, place_in_pass = divmod(number, self.batches_per_pass)
        return _batches_of_pass(self, passes)[place_in_pass]


@lru_cache(maxsize=4)
def _batches_of_pass(order: BatchOrder, number: int) -> tuple[tuple[int, ...], ...]:
    random = generator(order.seed, order.purpose, "order", number)
    batches: list[tuple[int, ...]] = []
    for group in order.groups:
        shuffled = [group[i] for i in torch.randperm(len(group), generator=random)]
        count = -(-len(group) // order.batch_size)
        filled = [shuffled[i % len(group)] for i in range(count * order.batch_size)]
        batches += [tuple(filled[i * order.batch_size : (i + 1) * order.batch_size]) for i in range(count)]
    return tuple(batches[i] for i in torch.randperm(len(batches), generator=random))


@dataclass(frozen=True)
class Dataset:
    """Examples with a view for each of their placements; `weight` is that of its loss beside other datasets'."""

    purpose: Purpose
    examples: tuple[Example, ...]
    views: tuple[tuple[View, ...], ...]
    order: BatchOrder
    weight: float = 1.0

    @property
    def wordings(self) -> list[frozenset[str] | None]:
        """Of each caption, None where they are too many to keep."""
        return [wordings(one.caption, one.settings) for one in self.examples]

    def batch(self, number: int) -> Batch:
        """Which views and words it has follows from the seed, the purpose, `number` and the place in the batch."""
        indices = self.order.batch(number)
        randoms = [chance(self.order.seed, self.purpose, "look", number, place) for place in range(len(indices))]
        looks = [random.randrange(len(self.views[i])) for random, i in zip(randoms, indices, strict=True)]
        pairs = zip(randoms, (self.examples[i] for i in indices), strict=True)
        return self._batch(indices, looks, [vary(one.caption, one.settings, random) for random, one in pairs])

    def plain_batch(self, indices: Sequence[int]) -> Batch:
        """These examples, which have to share a bucket, without chance."""
        captions = [plain(self.examples[i].caption, self.examples[i].settings) for i in indices]
        return self._batch(indices, [0] * len(indices), captions)

    def _batch(self, indices: Sequence[int], looks: Sequence[int], captions: Sequence[str]) -> Batch:
        examples = [self.examples[i] for i in indices]
        views = [self.views[i][look] for i, look in zip(indices, looks, strict=True)]
        return Batch(
            latents=torch.stack([view.latents for view in views]),
            captions=tuple(captions),
            framings=tuple(one.framing(one.placements[look]) for one, look in zip(examples, looks, strict=True)),
            names=tuple(one.picture.path.name for one in examples),
            weights=torch.tensor([one.settings.weight for one in examples]),
            pixel_weights=torch.stack([view.pixel_weights for view in views]),
            keeps_base=self.purpose == "prior-prediction",
        )


def make_examples(report: DatasetReport) -> tuple[Example, ...]:
    """All pictures of a set that has no problems."""
    captions, masks = report.captions.by_picture, report.masks.by_picture if report.masks else {}
    return tuple(
        Example(
            picture,
            captions[picture.path].text,
            report.variants(placement),
            report.settings,
            masks.get(picture.path),
        )
        for picture, placement in zip(report.images.pictures, report.placements, strict=True)
    )


def bucket_groups(examples: Sequence[Example]) -> tuple[tuple[int, ...], ...]:
    """Indices of the examples of each bucket, each as often as it is repeated, in a fixed order."""
    groups: defaultdict[Bucket, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.bucket] += [index] * example.settings.repeats
    return tuple(tuple(groups[bucket]) for bucket in sorted(groups))


def pixels(example: Example, at: Placement, background: str) -> Tensor:
    """The training picture, (3, height, width) in -1..1, scaled, mirrored and cut as `at` says."""
    picture = _placed(open_upright(example.picture.path, background), at)
    return _values(picture).permute(2, 0, 1).float() / 127.5 - 1


def pixel_weights(mask: Mask | None, unmasked_weight: float, at: Placement) -> Tensor:
    """How much each latent counts, (1, height / 8, width / 8): u + (1 - u) m, divided by its mean over the picture.

    m: the mask's mean over the latent's 8 x 8 pixels; u: the weight outside. The division makes the mean error that of
    what counts: a small mask does not make the loss small. A cut that holds nothing of the mask counts nowhere.
    """
    height, width = at.bucket.height // LATENT_PX, at.bucket.width // LATENT_PX
    if mask is None:
        return torch.ones(1, height, width)
    small = _placed(open_mask(mask), at, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)
    weights = unmasked_weight + (1 - unmasked_weight) * _values(small)[None, :, :, 0].float() / 255
    return weights / weights.mean() if weights.any() else weights


def _placed(picture: Image.Image, at: Placement, filter_: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    scaled = picture.resize(at.scaled, filter_)
    whole = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if at.is_mirrored else scaled
    return whole.crop((at.left, at.top, at.left + at.bucket.width, at.top + at.bucket.height))


def _values(picture: Image.Image) -> Tensor:
    """(height, width, channels) as bytes."""
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(picture.height, picture.width, -1)
