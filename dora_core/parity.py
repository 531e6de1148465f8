"""Does a file render what was trained? Each program's own formula on the file's own content, against the ideal weight.

The ideal is W0 + s * (W' - W0) in float64. A layer's error is taken relative to its update, norm(W' - W0); an update
smaller than a thousandth of the weight counts as a thousandth of it. So an error of 1e-3 means: within 1e-3 of the
update or 1e-6 of the base weight.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dora_core.algebra import full_float32, squared_norm
from dora_core.consumers import BY_KEY, CONSUMERS, Consumer, rendered_weight
from dora_core.errors import FileFormatError
from dora_core.families import ModelModules
from dora_core.files import read_adapter
from dora_core.formats import adapted_weight
from dora_core.keymap import spellings
from dora_core.layouts import AdapterInfo, Layout
from dora_core.parity_report import ConsumerParity, LayerParity, ParityReport, StrengthParity, recommended_consumer
from dora_core.resolution import unresolved_modules
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, Layer

STRENGTHS = (1.0, 0.5)
SMALLEST_UPDATE = 1e-3  # of the base weight

Intended = Callable[[str, Tensor], Tensor]  # layer name and W0 in float64 -> W' in float64


@dataclass(frozen=True)
class Ideal:
    """What a layer's weight should be by strength, in float64, and what errors are relative to."""

    at: Mapping[float, Tensor]
    base_norm: float
    update_norm: float  # of W' - W0

    @classmethod
    def of(cls, name: str, base: Tensor, intended: Intended) -> Ideal:
        weight = base.double()
        update = intended(name, weight) - weight
        return cls({s: weight + s * update for s in STRENGTHS}, _norm(weight), _norm(update))

    def error(self, actual: Tensor, strength: float) -> float:
        """Of a weight that should be the one at that strength, relative to the update."""
        unit = max(self.update_norm, SMALLEST_UPDATE * self.base_norm)
        return _relative(_norm(actual.double() - self.at[strength]), unit)


@dataclass(frozen=True)
class StoredAdapter:
    """The content of a file, in the types that it is stored in."""

    layers: Mapping[str, Layer]
    file_names: Mapping[str, str]  # neutral name -> the file's own
    info: AdapterInfo
    modules: ModelModules


def read_stored(path: str | os.PathLike[str], modules: ModelModules | None = None) -> StoredAdapter:
    """What is in the file at `path`; raises FileFormatError as `read_adapter` does."""
    file = read_adapter(path, modules)
    known = spellings(file.modules)
    return StoredAdapter(file.state.layers, {known[name]: name for name in file.info.modules}, file.info, file.modules)


def intended_by_state(state: AdapterState) -> Intended:
    """What `state` means; layers that it does not have stay as they are."""

    def adapted(name: str, weight: Tensor) -> Tensor:
        if name not in state.layers:
            return weight
        return adapted_weight(weight, state.layers[name].to(weight.device), state.norm_axis)

    return adapted


def intended_by_file(stored: StoredAdapter) -> Intended:
    """What the file itself means by its layout: the axis its magnitudes have, the compensation its name announces."""

    def adapted(name: str, weight: Tensor) -> Tensor:
        layer = stored.layers[name].to(weight.device)
        if stored.info.layout == "kohya-compensated" and layer.magnitude is not None:
            norm = squared_norm(weight, "output").sqrt().reshape(layer.magnitude.shape)
            return (weight + layer.delta()) * layer.magnitude.to(weight) / norm
        return adapted_weight(weight, layer, stored.info.norm_axis)

    return adapted


def check_parity(
    stored: StoredAdapter,
    base: Mapping[str, Tensor],
    intended: Intended,
    recommended: str | None = None,
    expected: Iterable[str] = (),
    device: torch.device | None = None,
) -> ParityReport:
    """Compare what every consumer makes of the file with what is intended, layer by layer on `device`.

    `base` gives W0 by neutral name, and may make it when asked. `recommended` is the key of the consumer that the file
    is for; None: the one that its kind is for. `expected` names layers that the file has to have. FileFormatError where
    the base lacks a layer, and for mixed layouts, of which no program's reading is known.
    """
    layout = stored.info.layout
    if layout == "other":
        raise FileFormatError("the file mixes the keys of several layouts: read it and export it again")
    missing_base = [name for name in stored.layers if name not in base]
    if missing_base:
        raise FileFormatError("the base model lacks layers that the file adapts", missing=missing_base)
    check = _Check.of(stored, layout, intended, device)
    with full_float32():
        layers = tuple(check.layer(name, base[name]) for name in sorted(stored.layers))
    return ParityReport(
        layout=layout,
        norm_axis=stored.info.norm_axis,
        family=stored.modules.family.name,
        recommended=recommended or recommended_consumer(layout, stored.info.norm_axis),
        consumers=tuple(check.summary(consumer, layers) for consumer in CONSUMERS),
        layers=layers,
        missing=tuple(sorted(set(expected) - set(stored.layers))),
        not_certified=_not_certified(layout, stored.info.norm_axis),
    )


@dataclass(frozen=True)
class _Check:
    stored: StoredAdapter
    intended: Intended
    unresolved: Mapping[str, frozenset[str]]  # by consumer that reads the layout: neutral names it does not find
    device: torch.device | None

    @classmethod
    def of(cls, stored: StoredAdapter, layout: Layout, intended: Intended, device: torch.device | None) -> _Check:
        unresolved = {
            consumer.key: unresolved_modules(consumer.program, stored.info, stored.modules)
            for consumer in CONSUMERS
            if layout in consumer.layouts
        }
        return cls(stored, intended, unresolved, device)

    def layer(self, name: str, base: Tensor) -> LayerParity:
        weight = base.to(self.device)
        ideal = Ideal.of(name, weight, self.intended)
        measured = _Measured(weight, self.stored.layers[name].to(weight.device), ideal)
        errors = {
            (key, strength): measured.left_out(strength)
            if self.stored.file_names[name] in names
            else measured.error(BY_KEY[key], strength)
            for key, names in self.unresolved.items()
            for strength in STRENGTHS
        }
        rounding = {key: measured.rounding(BY_KEY[key]) for key in self.unresolved if BY_KEY[key].is_half}
        return LayerParity(name, _relative(ideal.update_norm, ideal.base_norm), errors, rounding)

    def summary(self, consumer: Consumer, layers: tuple[LayerParity, ...]) -> ConsumerParity:
        reads = consumer.key in self.unresolved
        return ConsumerParity(
            consumer=consumer,
            modules=len(layers),
            unresolved=tuple(sorted(self.unresolved.get(consumer.key, ()))),
            strengths=tuple(_at_strength(consumer.key, strength, layers) for strength in STRENGTHS) if reads else (),
            rounding=statistics.median(layer.rounding.get(consumer.key, 0.0) for layer in layers),
            means_the_same=reads and self._is_exact_in_float32(consumer, layers),
            only_full_strength=self._only_full_strength(consumer),
        )

    def _is_exact_in_float32(self, consumer: Consumer, layers: tuple[LayerParity, ...]) -> bool:
        precise = next(row for row in CONSUMERS if row.program == consumer.program and not row.is_half)
        strengths = [1.0] if self._only_full_strength(consumer) else STRENGTHS
        return all(layer.errors[precise.key, s] <= precise.tolerance for layer in layers for s in strengths)

    def _only_full_strength(self, consumer: Consumer) -> bool:
        return self.stored.info.norm_axis is not None and not consumer.interpolates


@dataclass
class _Measured:
    """The errors of one layer. Consumers that compute alike are computed once."""

    weight: Tensor
    stored: Layer
    ideal: Ideal
    known: dict[tuple[object, ...], float] = field(default_factory=dict[tuple[object, ...], float])
    updates: dict[torch.dtype, Tensor] = field(default_factory=dict[torch.dtype, Tensor])

    def error(self, consumer: Consumer, strength: float) -> float:
        types = (consumer.weight_dtype, consumer.product_dtype, consumer.result_dtype)
        way = (consumer.formula, *types, strength)
        if way not in self.known:
            update = self._update(consumer.product_dtype)
            rendered = rendered_weight(consumer, self.weight, update, self.stored.magnitude, strength)
            self.known[way] = self.ideal.error(rendered, strength)
        return self.known[way]

    def left_out(self, strength: float) -> float:
        """The weight stays as it was."""
        return self.ideal.error(self.weight, strength)

    def rounding(self, consumer: Consumer) -> float:
        if (consumer.result_dtype, 1.0) not in self.known:
            rounded = self.ideal.at[1.0].to(consumer.result_dtype)
            self.known[consumer.result_dtype, 1.0] = self.ideal.error(rounded, 1.0)
        return self.known[consumer.result_dtype, 1.0]

    def _update(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self.updates:
            self.updates[dtype] = self.stored.delta(dtype)
        return self.updates[dtype]


def _at_strength(key: str, strength: float, layers: tuple[LayerParity, ...]) -> StrengthParity:
    errors = {layer.name: layer.errors[key, strength] for layer in layers}
    worst_layer = max(errors, key=lambda name: errors[name])
    return StrengthParity(strength, errors[worst_layer], worst_layer, statistics.median(errors.values()))


def _norm(tensor: Tensor) -> float:
    return math.sqrt(float(torch.dot(tensor.flatten(), tensor.flatten())))


def _relative(error: float, unit: float) -> float:
    """Infinite for what is not a number, so that it is worse than any number."""
    if math.isnan(error):
        return math.inf
    return error / unit if unit else (math.inf if error else 0.0)


def _not_certified(layout: Layout, axis: NormAxis | None) -> tuple[str, ...]:
    """What the comparison says nothing about."""
    notes = ["other adapters loaded at the same time", "quantised and 8-bit base models"]
    if axis is not None or layout == "diff":
        notes.append("any base model but the one it was trained on")
    if axis is not None:
        notes.append(
            "strengths other than 1 in LyCORIS, diffusers and PEFT, where they are no straight line to the base"
        )
        notes.append("ComfyUI's bypass loader, which knows no dora_scale: a plain LoRA")
    if axis == "input":
        notes.append("LyCORIS' own file loaders, which since 3.2 take every file for the output axis and fail")
    if layout == "kohya-compensated":
        notes.append("versions of ComfyUI that divide by the norm of the adapted weight (its pull request 15458)")
    return tuple(notes)
