"""Putting an adapter into a model and taking it out again: two steps that undo each other, each all or nothing."""

from __future__ import annotations

import hashlib
import math
import warnings

import torch
from torch import nn

from dora_core.adapter import Adapter
from dora_core.layers import AdaptedLayer, DoraLayer, FullLayer, LoraLayer
from dora_core.spec import AdapterSpec
from dora_core.targets import Target, named_modules, plan_targets


def inject(model: nn.Module, spec: AdapterSpec, *, seed: int = 0) -> Adapter:
    """Wrap every layer that `spec` names and freeze its weights; the rest of the model is left as it is.

    For several models at once hand in an `nn.ModuleDict` of them: its keys begin the names. The start of a layer
    depends on `seed` and its name only. ValueError as in `plan_targets`, or where the model is adapted already: nothing
    has changed then. Ranks that had to be clamped are one warning.
    """
    if adapted := _adapted_layers(model):
        raise ValueError(
            f"the model is adapted already, at {len(adapted)} layers, first {next(iter(adapted))}: eject it."
        )
    plan = plan_targets(model, spec)
    layers = {target.name: _layer(target, spec, seed) for target in plan.targets}
    for name, layer in layers.items():
        layer.freeze_base()
        _replace(model, name, layer)
    notices = [target.notice for target in plan.targets if target.notice]
    if notices:
        warnings.warn(f"{len(notices)} ranks are clamped: {'; '.join(notices)}", stacklevel=2)
    return Adapter(layers, spec)


def eject(model: nn.Module) -> None:
    """Put the original modules back. What was merged into them stays merged. ValueError where nothing is adapted."""
    layers = _adapted_layers(model)
    if not layers:
        raise ValueError("the model holds no adapter: there is nothing to eject.")
    for name, layer in layers.items():
        layer.thaw_base()
        _replace(model, name, layer.base)


def _adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    return {name: module for name, module in named_modules(model) if isinstance(module, AdaptedLayer)}


def _layer(target: Target, spec: AdapterSpec, seed: int) -> AdaptedLayer:
    if spec.kind == "full":
        return FullLayer(target.module).train(target.module.training)
    return _low_rank_layer(target, spec, seed)


def _low_rank_layer(target: Target, spec: AdapterSpec, seed: int) -> LoraLayer:
    base, rank, scale = target.module, target.rank, target.scale
    if spec.kind == "lora":
        layer = LoraLayer(base, rank, scale, spec.dropout)
    else:
        layer = DoraLayer(base, rank, scale, spec.norm_axis, spec.dropout, spec.norm_gradient)
    generator = torch.Generator().manual_seed(_layer_seed(seed, target.name))
    start = torch.empty(layer.down.shape, dtype=layer.down.dtype)
    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
    layer.down.data.copy_(start)
    return layer.train(base.training)


def _layer_seed(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
