"""The tensors of each file layout, made from an adapter's neutral form. Pure: nothing here touches a disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from dora_core.algebra import decomposed_weight, direction_norm, squared_norm
from dora_core.families import ModelModules
from dora_core.keymap import kohya_map, peft_map
from dora_core.layouts import Layout, magnitude_shape
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, FullWeights, Layer, LayerWeights

Precision = Literal["half", "full"]
BaseWeights = Mapping[str, Tensor]

_HALF_ROUNDING = 2.0**-11  # the most that rounding to float16 costs where no value is too large or too small for it


def file_tensors(
    state: AdapterState, layout: Layout, modules: ModelModules, base: BaseWeights, precision: Precision
) -> dict[str, Tensor]:
    """The tensors of a file by its keys; `base` has to have `needed_weights`."""
    if layout == "diff":
        return {key: _narrowed(tensor, precision) for key, tensor in _differences(state, base, modules)}
    layers = {name: _in_precision(_folded(layer), precision) for name, layer in state.factors.items()}
    if layout == "kohya-compensated":
        layers = {name: _compensated(layer, base[name]) for name, layer in layers.items()}
    names = peft_map(modules).to_file if layout == "peft" else kohya_map(modules).to_file
    entries = _peft_entries if layout == "peft" else _kohya_entries
    return {f"{names[name]}.{leaf}": tensor for name, layer in layers.items() for leaf, tensor in entries(layer)}


def needed_weights(state: AdapterState, layout: Layout) -> set[str]:
    """Names of the base weights without which `completed` and `file_tensors` cannot do."""
    added = set(_missing_projections(state))
    if layout in ("diff", "kohya-compensated"):
        return added | state.layers.keys()
    return added if state.norm_axis is not None else set()


def completed(state: AdapterState, base: BaseWeights) -> AdapterState:
    """With q, k, v and out together in each attention block of a text encoder, those added having no effect.

    A1111 applies such a block of SD2's or SDXL's text encoders only if all four are there, stable-diffusion.cpp stops
    at the first one missing; both in silence.
    """
    added = {
        name: _without_effect(state.layers[sibling], state.norm_axis, base.get(name))
        for name, sibling in _missing_projections(state).items()
    }
    return AdapterState({**state.layers, **added}, state.norm_axis)


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _missing_projections(state: AdapterState) -> dict[str, str]:
    """Projections left out in a block where others are adapted -> one of these, which is of the same size."""
    adapted = {name.rpartition(".")[0]: name for name in sorted(state.layers) if ".self_attn." in name}
    names = {f"{block}.{projection}": sibling for block, sibling in adapted.items() for projection in _PROJECTIONS}
    return {name: sibling for name, sibling in names.items() if name not in state.layers}


def _without_effect(sibling: Layer, axis: NormAxis | None, weight: Tensor | None) -> Layer:
    """Nothing but zeros and, for DoRA, the base weight's own norm."""
    if isinstance(sibling, FullWeights):
        return FullWeights(torch.zeros_like(sibling.difference))
    magnitude = None if axis is None or weight is None else _norm(weight.double(), axis).float()
    return LayerWeights(torch.zeros_like(sibling.down), torch.zeros_like(sibling.up), sibling.alpha, magnitude)


def _folded(layer: LayerWeights) -> LayerWeights:
    """The same layer with alpha = rank: the scale goes into `up`, in float32 at least."""
    wide = layer.up if layer.up.dtype == torch.float64 else layer.up.float()
    return replace(layer, up=wide * layer.scale, alpha=float(layer.rank))


def _in_precision(layer: LayerWeights, precision: Precision) -> LayerWeights:
    return replace(layer, down=_narrowed(layer.down, precision), up=_narrowed(layer.up, precision))


def _narrowed(tensor: Tensor, precision: Precision) -> Tensor:
    """In float16 if wanted and possible, else in float32."""
    return tensor.to(torch.float16 if precision == "half" and fits_half(tensor) else torch.float32)


def fits_half(tensor: Tensor) -> bool:
    """Whether float16 keeps the tensor: nothing overflows, and what falls below its normal range does not matter."""
    wide = tensor.double()
    error = wide.to(torch.float16).double() - wide  # infinite where a value overflows
    return bool(error.square().sum() <= _HALF_ROUNDING**2 * wide.square().sum())


def _compensated(layer: LayerWeights, weight: Tensor) -> LayerWeights:
    """m * norm(W0) / norm(V), for programs that divide an output-axis magnitude by norm(W0) in place of norm(V)."""
    if layer.magnitude is None:
        return layer
    wide = weight.double()
    divisor = direction_norm(squared_norm(wide + layer.delta(), "output")).reshape(layer.magnitude.shape)
    return replace(layer, magnitude=layer.magnitude * _norm(wide, "output") / divisor)


def _norm(weight: Tensor, axis: NormAxis) -> Tensor:
    return squared_norm(weight, axis).sqrt().reshape(magnitude_shape(weight.shape, axis))


def _differences(state: AdapterState, base: BaseWeights, modules: ModelModules) -> Iterator[tuple[str, Tensor]]:
    names = kohya_map(modules).to_file
    for name, layer in state.layers.items():
        weight = base[name].double()
        yield f"{names[name]}.diff", adapted_weight(weight, layer, state.norm_axis) - weight


def adapted_weight(weight: Tensor, layer: Layer, axis: NormAxis | None) -> Tensor:
    """W' in float64, what the layer means on a base weight in float64."""
    combined = weight + layer.delta()
    if axis is None or layer.magnitude is None:
        return combined
    return decomposed_weight(combined, layer.magnitude.double(), axis)


def _kohya_entries(layer: LayerWeights) -> Iterator[tuple[str, Tensor]]:
    yield "lora_down.weight", layer.down
    yield "lora_up.weight", layer.up
    yield "alpha", torch.tensor(layer.alpha)
    if layer.magnitude is not None:
        yield "dora_scale", layer.magnitude.float()


def _peft_entries(layer: LayerWeights) -> Iterator[tuple[str, Tensor]]:
    """PEFT keeps a Linear's magnitude flat and a convolution's in dimension 1, though it is one per output channel."""
    yield "lora_A.weight", layer.down
    yield "lora_B.weight", layer.up
    if layer.magnitude is not None:
        shape = (-1,) if layer.magnitude.dim() == 2 else (1, -1, 1, 1)
        yield "lora_magnitude_vector.weight", layer.magnitude.float().reshape(shape)
