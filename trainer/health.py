"""Whether an adapter learns: how large its updates are by block, and how far its magnitudes have moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from dora_core.adapter import Adapter
from dora_core.layers import AdaptedLayer, DoraLayer, FullLayer, LoraLayer


@torch.no_grad()
def update_norms(adapters: Mapping[str, Adapter]) -> dict[str, float]:
    """Norm of all updates D of a block together; a block is ``unet.down_blocks.1``, or a whole text encoder."""
    squares: defaultdict[str, list[Tensor]] = defaultdict(list)
    for part, adapter in adapters.items():
        for name, layer in adapter.layers.items():
            squares[_block(part, name)].append(squared_update(layer))
    return {block: float(torch.stack(values).sum().sqrt()) for block, values in squares.items()}


def squared_update(layer: AdaptedLayer) -> Tensor:
    """norm(D)^2; of factors norm(s B A)^2 = s^2 sum((B^T B) * (A A^T)), without the product itself."""
    if isinstance(layer, FullLayer):
        return layer.difference.square().sum()
    assert isinstance(layer, LoraLayer)
    down, up = layer.down.flatten(1), layer.up.flatten(1)
    return layer.scale**2 * ((up.T @ up) * (down @ down.T)).sum()


@torch.no_grad()
def magnitude_drift(adapters: Mapping[str, Adapter]) -> float | None:
    """Mean of |m / norm(W0) - 1| over all channels; None without a DoRA layer."""
    changes = [
        (layer.magnitude.flatten() / layer.base_squared.sqrt().clamp(min=torch.finfo(torch.float32).tiny) - 1).abs()
        for adapter in adapters.values()
        for layer in adapter.layers.values()
        if isinstance(layer, DoraLayer)
    ]
    return float(torch.cat(changes).mean()) if changes else None


@torch.no_grad()
def relative_change(adapters: Mapping[str, Adapter]) -> float:
    """norm(W' - W0) / norm(W0), all adapted weights together."""
    changed, original = 0.0, 0.0
    for adapter in adapters.values():
        for layer in adapter.layers.values():
            weight = layer.original_weight.float()
            changed += float((layer.merged_weight() - weight).square().sum())
            original += float(weight.square().sum())
    return (changed / original) ** 0.5


def _block(part: str, name: str) -> str:
    first, second, *_ = name.split(".")
    if part != "unet":
        return part
    return f"{part}.{first}.{second}" if second.isdigit() else f"{part}.{first}"
