"""The weights that adapters mean, straight from the definition: what other ways to compute them are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from dora_core.spec import NormAxis
from dora_core.state import LayerWeights


def dense_weight(weight: Tensor, layer: LayerWeights, axis: NormAxis | None) -> Tensor:
    """W' = V or m V / norm(V), V = W0 + alpha / rank * up down, in float64."""
    up, down = layer.up.double().flatten(1), layer.down.double().flatten(1)
    combined = weight.double() + layer.alpha / down.shape[0] * (up @ down).reshape(weight.shape)
    if axis is None or layer.magnitude is None:
        return combined
    reduced = [dimension for dimension in range(weight.dim()) if dimension != (0 if axis == "output" else 1)]
    return layer.magnitude.double() * combined / torch.linalg.vector_norm(combined, dim=reduced, keepdim=True)


def relative_error(found: Tensor, expected: Tensor, reference: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / reference.double().norm())
