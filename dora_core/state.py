"""The neutral form of an adapter: what every module that reads, writes, checks or merges adapters speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dora_core.header import Shape
from dora_core.spec import Form, Kind, NormAxis


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
        return (self.scale * low_rank).reshape(self.weight_shape)

    @property
    def weight_shape(self) -> Shape:
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By part, as `own_parameters` of a layer calls them."""
        factors = {"down": self.down, "up": self.up}
        return factors if self.magnitude is None else {**factors, "magnitude": self.magnitude}

    def to(self, device: torch.device) -> LayerWeights:
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return LayerWeights(self.down.to(device), self.up.to(device), self.alpha, magnitude)


@dataclass(frozen=True)
class FullWeights:
    """One layer that was trained whole: W' - W0, in the shape of the weight."""

    difference: Tensor
    magnitude: None = None  # so that it reads like a LoRA of full rank

    def delta(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.difference.to(dtype)

    @property
    def weight_shape(self) -> Shape:
        return tuple(self.difference.shape)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"difference": self.difference}

    def to(self, device: torch.device) -> FullWeights:
        return FullWeights(self.difference.to(device))


Layer = LayerWeights | FullWeights


@dataclass(frozen=True)
class AdapterState:
    """All adapted layers of one adapter, by name.

    For one model a name is the module path in the base model. For a pipeline it is ``<component>.<module path>`` with
    the components ``unet``, ``text_encoder`` and ``text_encoder_2``; text-encoder paths are the canonical ones that
    start with ``text_model.``, whatever the installed transformers version calls them.
    """

    layers: Mapping[str, Layer]
    norm_axis: NormAxis | None = None  # None: plain LoRA, or full differences

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            if (layer.magnitude is None) != (self.norm_axis is None):
                has = "no" if layer.magnitude is None else "a"
                raise ValueError(f"layer {name} has {has} magnitude, but the adapter's norm axis is {self.norm_axis}")
        if self.form == "full" and len(self.factors) > 0:
            raise ValueError("some layers are full differences and some are factors: an adapter is one or the other")

    @property
    def form(self) -> Form:
        return "full" if len(self.factors) < len(self.layers) else self.norm_axis

    @property
    def kind(self) -> Kind:
        return "full" if self.form == "full" else "lora" if self.norm_axis is None else "dora"

    @property
    def factors(self) -> dict[str, LayerWeights]:
        """The layers of LoRA and DoRA; {} of full differences."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, LayerWeights)}
