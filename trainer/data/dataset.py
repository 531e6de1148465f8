"""Pictures as training examples, in an order that follows from a seed: any batch can be had by its number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trainer.data.buckets import Bucket, Placement, place
from trainer.data.scan import Picture, open_upright
from trainer.seeds import generator
from trainer.text import Framing

Purpose = Literal["instance", "prior"]


@dataclass(frozen=True)
class Example:
    """A picture, its caption, and how it gets to its training size."""

    picture: Picture
    caption: str
    placement: Placement

    @property
    def framing(self) -> Framing:
        bucket = self.placement.bucket
        return Framing(
            original_px=(self.picture.width, self.picture.height),
            crop_px=(self.placement.left, self.placement.top),
            size_px=(bucket.width, bucket.height),
        )


@dataclass(frozen=True)
class Batch:
    """latents: (batch, channels, height / 8, width / 8), one caption, framing and file name each."""

    latents: Tensor
    captions: tuple[str, ...]
    framings: tuple[Framing, ...]
    names: tuple[str, ...]


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
    """Examples with their latents; `weight` is that of its loss beside other datasets'."""

    purpose: Purpose
    examples: tuple[Example, ...]
    latents: tuple[Tensor, ...]
    order: BatchOrder
    weight: float = 1.0

    def batch(self, number: int) -> Batch:
        return self.of(self.order.batch(number))

    def of(self, indices: Sequence[int]) -> Batch:
        """A batch of these examples, which have to share a bucket."""
        examples = [self.examples[i] for i in indices]
        return Batch(
            torch.stack([self.latents[i] for i in indices]),
            tuple(example.caption for example in examples),
            tuple(example.framing for example in examples),
            tuple(example.picture.path.name for example in examples),
        )


def make_examples(
    pictures: Sequence[Picture], captions: Mapping[Path, str], buckets: Sequence[Bucket]
) -> tuple[Example, ...]:
    return tuple(
        Example(picture, captions[picture.path], place(picture.width, picture.height, buckets)) for picture in pictures
    )


def bucket_groups(examples: Sequence[Example]) -> tuple[tuple[int, ...], ...]:
    """Indices of the examples of each bucket, in a fixed order."""
    groups: defaultdict[Bucket, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.placement.bucket].append(index)
    return tuple(tuple(groups[bucket]) for bucket in sorted(groups))


def pixels(example: Example, background: str) -> Tensor:
    """The training picture, (3, height, width) in -1..1, scaled and cut as its placement says."""
    at = example.placement
    box = (at.left, at.top, at.left + at.bucket.width, at.top + at.bucket.height)
    picture = open_upright(example.picture.path, background).resize(at.scaled).crop(box)
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(at.bucket.height, at.bucket.width, 3).permute(2, 0, 1).float() / 127.5 - 1
