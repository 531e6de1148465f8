"""The same adapter, with the same numbers, built over our layers, PEFT's and LyCORIS'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace

import peft
import torch
from lycoris.modules.locon import LoConModule
from torch import Tensor, nn

from dora_core.adapter import Adapter
from dora_core.algebra import along, squared_norm
from dora_core.injection import inject
from dora_core.spec import AdapterSpec, NormAxis
from dora_core.state import AdapterState, LayerWeights
from dora_core.targets import iter_targets

UPDATE_SIZE = 0.02  # norm(D) / norm(W0)
GAIN_SPREAD = 0.01

States = Mapping[NormAxis | None, AdapterState]


@dataclass(frozen=True)
class Adapted:
    """A model with an adapter in it."""

    model: nn.Module
    parameters: list[nn.Parameter]
    adapter: Adapter | None = None  # ours

    def refresh_norms(self) -> None:
        """What an optimizer step brings on: new norms. The others compute them in every forward."""
        if self.adapter is not None:
            self.adapter.refresh_norms()

    def compile_passes(self) -> None:
        """What our layers add to the matrix products, each pass by itself."""
        if self.adapter is not None:
            self.adapter.compile()


@dataclass(frozen=True)
class Variant:
    """One row of a comparison."""

    name: str
    build: Callable[[nn.Module, AdapterState], Adapted]
    axis: NormAxis | None = None  # None: LoRA

    def adapt(self, model: nn.Module, states: States) -> Adapted:
        """A copy of `model`, which shares its weights, with the adapter of this variant in it."""
        return self.build(copy_sharing_weights(model), states[self.axis])


def random_states(model: nn.Module, spec: AdapterSpec, seed: int) -> States:
    """An adapter as if trained for a while, as LoRA and as DoRA on each axis, with the same factors in all three."""
    generator = torch.Generator().manual_seed(seed)
    targets = list(iter_targets(model, spec))
    weights = {target.name: target.module.weight.detach() for target in targets}
    lora = {target.name: _random_factors(weights[target.name], target.rank, generator) for target in targets}
    states: dict[NormAxis | None, AdapterState] = {None: AdapterState(lora)}
    axes: tuple[NormAxis, ...] = ("output", "input")
    for axis in axes:
        states[axis] = AdapterState(dict(_with_magnitudes(lora, weights, axis, generator)), axis)
    return states


def adapt_with_nothing(model: nn.Module, state: AdapterState) -> Adapted:
    return Adapted(model, [])


def adapt_with_ours(model: nn.Module, state: AdapterState) -> Adapted:
    layer = next(iter(state.factors.values()))
    spec = AdapterSpec(
        kind="lora" if state.norm_axis is None else "dora",
        norm_axis=state.norm_axis or "output",
        rank=layer.rank,
        alpha=layer.alpha,
        include=tuple(state.factors),
    )
    adapter = inject(model, spec)
    adapter.load(state)
    return Adapted(model, list(adapter.parameters()), adapter)


def adapt_with_peft(model: nn.Module, state: AdapterState) -> Adapted:
    """PEFT knows the output axis only. Its parameters are float32 on any model, as `get_peft_model` makes them."""
    layer = next(iter(state.factors.values()))
    config = peft.LoraConfig(
        r=layer.rank,
        lora_alpha=layer.alpha,  # pyright: ignore[reportArgumentType]  # annotated as int, takes any number
        use_dora=state.norm_axis is not None,
        target_modules=list(state.factors),
    )
    peft.inject_adapter_in_model(config, model)
    parameters: list[nn.Parameter] = []
    for name, layer in state.factors.items():
        values = {"lora_A": layer.down, "lora_B": layer.up, "lora_magnitude_vector": layer.magnitude}
        for part, value in values.items():
            if value is not None:
                parameters.append(_put(model.get_submodule(f"{name}.{part}.default"), "weight", value))
    return Adapted(model, parameters)


def adapt_with_lycoris(model: nn.Module, state: AdapterState) -> Adapted:
    """Module by module: LyCORIS' own network would take its targets from a preset that is global to the process."""
    parameters: list[nn.Parameter] = []
    for name, layer in state.factors.items():
        base = model.get_submodule(name)
        module = LoConModule(
            name,
            base,
            lora_dim=layer.rank,
            alpha=layer.alpha,  # pyright: ignore[reportArgumentType]  # annotated as int by its default
            weight_decompose=state.norm_axis is not None,
            wd_on_out=state.norm_axis == "output",
        ).to(base.get_parameter("weight").device)
        module.apply_to()
        base.add_module("lycoris", module)
        parameters += [_put(module.lora_down, "weight", layer.down), _put(module.lora_up, "weight", layer.up)]
        if layer.magnitude is not None:
            parameters.append(_put(module, "dora_scale", layer.magnitude))
    return Adapted(model, parameters)


VARIANTS = (
    Variant("base, frozen", adapt_with_nothing),
    Variant("LoRA", adapt_with_ours),
    Variant("DoRA output", adapt_with_ours, "output"),
    Variant("DoRA input", adapt_with_ours, "input"),
    Variant("PEFT LoRA", adapt_with_peft),
    Variant("PEFT DoRA output", adapt_with_peft, "output"),
    Variant("LyCORIS LoRA", adapt_with_lycoris),
    Variant("LyCORIS DoRA output", adapt_with_lycoris, "output"),
    Variant("LyCORIS DoRA input", adapt_with_lycoris, "input"),
)
REFERENCE = "LoRA"


def autocast(x: Tensor) -> AbstractContextManager[object]:
    """Mixed precision where `x` is a half-precision tensor, nothing otherwise."""
    is_half = x.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(x.device.type, x.dtype) if is_half and not x.is_meta else nullcontext()


def copy_sharing_weights(model: nn.Module) -> nn.Module:
    """Modules of its own around the same tensors: many variants of a large model fit into memory."""
    return deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _random_factors(weight: Tensor, rank: int, generator: torch.Generator) -> LayerWeights:
    out, *rest = weight.shape
    down = torch.randn(rank, *rest, generator=generator).to(weight.device)
    up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=generator).to(weight.device)
    a, b = down.flatten(1), up.flatten(1)
    update_norm = ((a @ a.T) * (b.T @ b)).sum().sqrt()
    return LayerWeights(down, up * (UPDATE_SIZE * weight.float().norm() / update_norm), alpha=rank)


def _with_magnitudes(
    layers: Mapping[str, LayerWeights], weights: Mapping[str, Tensor], axis: NormAxis, generator: torch.Generator
) -> Iterator[tuple[str, LayerWeights]]:
    for name, layer in layers.items():
        weight = weights[name]
        norm = squared_norm(weight, axis).sqrt()
        gain = 1 + GAIN_SPREAD * torch.randn(norm.shape, generator=generator).to(norm.device)
        yield name, replace(layer, magnitude=along(norm * gain, weight, axis))


def _put(module: nn.Module, attribute: str, value: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(value.clone().reshape(getattr(module, attribute).shape))
    setattr(module, attribute, parameter)
    return parameter
