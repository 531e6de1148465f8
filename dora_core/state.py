"""The neutral form of an adapter: what every module that reads, writes, checks or merges adapters speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dora_core.spec import NormAxis


@dataclass(frozen=True)
class LayerWeights:
    """One adapted layer.

    Shapes, for a base weight of (out, in) or (out, in, kh, kw):

    - ``down``: (rank, in) or (rank, in, kh, kw)
    - ``up``: (out, rank) or (out, rank, 1, 1)
    - ``magnitude``: None for LoRA. For DoRA it keeps all dimensions of the weight, every one but its own of size 1:
      (out, 1) or (out, 1, 1, 1) on the output axis, (1, in) or (1, in, 1, 1) on the input axis.

    ``alpha`` is the effective one: the update is ``alpha / rank * up @ down`` whatever scaling rule was trained with.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def delta(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """``scale * up @ down`` in the shape of the base weight."""
        low_rank = self.up.flatten(1).to(dtype) @ self.down.flatten(1).to(dtype)
        return (self.scale * low_rank).reshape(self.up.shape[0], *self.down.shape[1:])


@dataclass(frozen=True)
class AdapterState:
    """All adapted layers of one adapter, by name.

    For one model a name is the module path in the base model. For a pipeline it is ``<component>.<module path>`` with
    the components ``unet``, ``text_encoder`` and ``text_encoder_2``; text-encoder paths are the canonical ones that
    start with ``text_model.``, whatever the installed transformers version calls them.
    """

    layers: Mapping[str, LayerWeights]
    norm_axis: NormAxis | None = None  # None: plain LoRA

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            if (layer.magnitude is None) != (self.norm_axis is None):
                has = "no" if layer.magnitude is None else "a"
                raise ValueError(f"layer {name} has {has} magnitude, but the adapter's norm axis is {self.norm_axis}")
