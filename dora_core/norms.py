"""Bringing the norms of many DoRA layers up to date together: one thin product per layer, the rest once per shape.

What depends on values - norms that cancel, gains too small to divide by - is looked for on the device and read from it
once for all layers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dora_core import algebra

if TYPE_CHECKING:
    from dora_core.layers import DoraLayer

WEAK_GAIN = 1e-3
"""Below this gain an output channel's gradient of the magnitude is not taken from its output: the bias drowns it."""


@torch.no_grad()
def refresh_norms(layers: Iterable[DoraLayer]) -> None:
    """Set the norms and the weak channels of `layers` from what they hold now."""
    groups: dict[Hashable, list[DoraLayer]] = {}
    for layer in layers:
        layer.note_versions()
        norm = layer.norm
        kind = (layer.original_weight.shape, layer.rank, layer.scale, layer.axis, norm.dtype, norm.device)
        groups.setdefault(kind, []).append(layer)
    flags = [_refresh_group(group) for group in groups.values()]
    everyone = [layer for group in groups.values() for layer in group]
    for layer, needs_mending in zip(everyone, _read(flags), strict=True):
        layer.weak = None
        if needs_mending:
            _mend(layer)


def _refresh_group(group: Sequence[DoraLayer]) -> Tensor:
    """Set the norms of layers of one kind; true for those of which some channel needs mending."""
    base_squared = torch.stack([layer.base_squared for layer in group])
    squared = _squared_norms(group, base_squared)
    norms = algebra.direction_norm(squared)
    for layer, norm in zip(group, norms, strict=True):
        layer.norm.copy_(norm)
    needs_mending = squared < algebra.CANCELLATION * base_squared
    if group[0].axis == "output":
        needs_mending |= torch.stack([layer.magnitude.flatten() for layer in group]).abs() < WEAK_GAIN * norms
    return needs_mending.any(1)


def _squared_norms(group: Sequence[DoraLayer], base_squared: Tensor) -> Tensor:
    return algebra.factored_squared_norms(
        base_squared,
        [layer.original_weight for layer in group],
        torch.stack([layer.down for layer in group]),
        torch.stack([layer.up for layer in group]),
        group[0].scale,
        group[0].axis,
    )


def _mend(layer: DoraLayer) -> None:
    """Take norms that cancelled from dense rows or columns, and list the weak channels."""
    cancelled = _squared_norms([layer], layer.base_squared[None])[0] < algebra.CANCELLATION * layer.base_squared
    channels = cancelled.nonzero().flatten()
    weight, axis = layer.original_weight, layer.axis
    dense = algebra.dense_squared_norm(weight, layer.down, layer.up, layer.scale, axis, channels)
    layer.norm[channels] = algebra.direction_norm(dense)
    if axis == "output":
        layer.weak = (layer.magnitude.flatten().abs() < WEAK_GAIN * layer.norm).nonzero().flatten()


def _read(flags: Sequence[Tensor]) -> list[bool]:
    """What waits for the device; on the meta device nothing is set."""
    together = torch.cat([flag.to(flags[0].device) for flag in flags])
    return [False] * together.numel() if together.is_meta else [bool(flag) for flag in together.cpu()]
