"""Small models and adapters with the real names of a family, for the tests of files and what becomes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from dora_core.algebra import squared_norm
from dora_core.families import FAMILIES, ModelModules, shipped_modules
from dora_core.layouts import magnitude_shape
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, LayerWeights

RANK = 3


def small_modules(family: str) -> ModelModules:
    """Every module of the family under its real name; channels 40 times fewer, all shapes unequal (out != in)."""
    return ModelModules(
        FAMILIES[family],
        {
            name: (shape[0] // 40 + 5, shape[1] // 40 + 9, *shape[2:])
            for name, shape in shipped_modules(family).shapes.items()
        },
    )


def random_weights(modules: ModelModules, names: list[str], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(modules.shapes[name], generator=generator) * 0.2 for name in names}


def random_adapter(
    base: dict[str, Tensor], axis: NormAxis | None, size: float = 0.05, drift: float = 0.02, seed: int = 1
) -> AdapterState:
    """On all of `base`: an update of `size` times the weight, magnitudes off by `drift`, alpha half the rank."""
    generator = torch.Generator().manual_seed(seed)
    return AdapterState({name: _layer(weight, axis, size, drift, generator) for name, weight in base.items()}, axis)


def _layer(
    weight: Tensor, axis: NormAxis | None, size: float, drift: float, generator: torch.Generator
) -> LayerWeights:
    out, inputs, *kernel = weight.shape
    down = torch.randn(RANK, inputs, *kernel, generator=generator) * inputs**-0.5
    up = torch.randn(out, RANK, *[1] * len(kernel), generator=generator)
    unscaled = LayerWeights(down, up, alpha=RANK / 2)
    up = up * float(size * weight.norm() / unscaled.delta().norm())
    layer = LayerWeights(down, up, alpha=RANK / 2)
    if axis is None:
        return layer
    norm = (
        squared_norm(weight.double() + layer.delta(), axis).sqrt().float().reshape(magnitude_shape(weight.shape, axis))
    )
    return LayerWeights(down, up, RANK / 2, norm * (1 + drift * torch.randn(norm.shape, generator=generator)))
