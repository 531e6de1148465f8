"""A loaded base model with the content of an adapter file in its weights, merged as the file's own consumer does it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from dora_core.consumers import BY_KEY, Consumer, rendered_weight
from dora_core.errors import FileFormatError
from dora_core.families import neutral_name
from dora_core.files import modules_of
from dora_core.layouts import AdapterInfo
from dora_core.parity import read_stored
from dora_core.parity_report import recommended_consumer
from trainer.components import Components
from trainer.sampling import draw_picture
from trainer.shot import Shot


@dataclass(frozen=True)
class Column:
    """What the pictures of a column are drawn with. No file: the base model."""

    title: str
    file: Path | None = None
    strength: float = 1.0


def draw_column(components: Components, column: Column, shots: Sequence[Shot]) -> list[Image.Image]:
    """One picture per shot; the model is afterwards as it was."""
    return list(draw_one_by_one(components, column, shots))


def draw_one_by_one(components: Components, column: Column, shots: Sequence[Shot]) -> Iterator[Image.Image]:
    """As draw_column; the model is as it was when the last picture has been taken."""
    with nullcontext() if column.file is None else merged(components, column.file, column.strength):
        for shot in shots:
            yield draw_picture(components, shot)


def consumer_of(info: AdapterInfo, name: str) -> Consumer:
    """The program that a file of this kind is for; FileFormatError where it mixes several programs' names."""
    if info.layout == "other":
        raise FileFormatError(f"{name} mixes the names of several programs: draw from a file that export wrote.")
    return BY_KEY[recommended_consumer(info.layout, info.norm_axis)]


@contextmanager
@torch.no_grad()
def merged(components: Components, file: Path, strength: float) -> Generator[None, None, None]:
    """The adapter in `file` in the weights for the block; FileFormatError where it does not fit the model.

    The program that the file is for decides what its numbers mean: each weight is its formula's result, in float32.
    """
    stored = read_stored(file, modules_of(components.family.name, components.models))
    consumer = consumer_of(stored.info, file.name)
    weights = _weights(components)
    before = {name: weights[name].clone() for name in stored.layers}
    try:
        for name, layer in stored.layers.items():
            weight = before[name].float().cpu()
            weights[name].copy_(rendered_weight(consumer, weight, layer.delta().float(), layer.magnitude, strength))
        yield
    finally:
        for name, weight in before.items():
            weights[name].copy_(weight)


def _weights(components: Components) -> dict[str, Tensor]:
    return {
        neutral_name(part, path): module.weight
        for part, model in components.models.items()
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
