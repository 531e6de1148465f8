"""Adapter files: read strictly whoever wrote them; written whole, the same bytes for the same adapter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import cast

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - a bare PathLike in its signature
from torch import Tensor, nn

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, ModelModules, neutral_name, shipped_modules
from dora_core.formats import BaseWeights, Precision, completed, file_tensors, needed_weights
from dora_core.header import Shape
from dora_core.keymap import spellings
from dora_core.layouts import NAME_ENDINGS, AdapterInfo, FileModule, Layout, inspect_adapter, magnitude_shape, role_of
from dora_core.metadata import About, Contents, file_metadata
from dora_core.peft_config import peft_alphas
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, FullWeights, Layer, LayerWeights
from dora_core.tensorfile import Written, kohya_hashes, write_tensors


@dataclass(frozen=True)
class AdapterFile:
    """What was read. Where `info.layout` is "kohya-compensated", magnitudes are as stored: right in few programs."""

    state: AdapterState
    info: AdapterInfo
    modules: ModelModules


def read_adapter(path: str | os.PathLike[str], modules: ModelModules | None = None) -> AdapterFile:
    """The adapter in the file at `path`: LoRA or DoRA by sd-scripts, LyCORIS, OneTrainer, PEFT, diffusers or us; or
    full differences.

    `modules` are those of the model at hand; None: those of the family that the header tells. Tensors keep the type
    that they have in the file. FileFormatError, with the entries at fault, for what would not be understood whole.
    """
    info = inspect_adapter(path)
    modules = modules or detected_modules(path, info)
    names = _neutral_names(path, info, modules)
    alphas = peft_alphas(path, info.metadata, names)
    tensors = load_file(path)
    layers = {
        name: _layer(info.modules[file_name], modules.shapes[name], info.norm_axis, tensors, alphas[name])
        for file_name, name in names.items()
    }
    return AdapterFile(AdapterState(layers, info.norm_axis), info, modules)


def detected_modules(path: str | os.PathLike[str], info: AdapterInfo) -> ModelModules:
    if info.detection is None:
        raise FileFormatError(
            f"{os.fspath(path)}: nothing tells which of {', '.join(FAMILIES)} it is for: pass the model's modules"
        )
    return shipped_modules(info.detection.family)


def _neutral_names(path: str | os.PathLike[str], info: AdapterInfo, modules: ModelModules) -> dict[str, str]:
    """The file's module names -> neutral ones, every one known, none twice, all of the right shape."""
    known = spellings(modules)
    names: dict[str, str] = {}
    unexpected: list[str] = []
    wrong: list[str] = []
    for file_name, module in info.modules.items():
        name = known.get(file_name)
        if name is None or name in names.values():
            unexpected += module.keys.values()
            continue
        names[file_name] = name
        if _without_kernel(module.weight_shape) != _without_kernel(modules.shapes[name]):
            wrong.append(f"{file_name} adapts {list(module.weight_shape)}, the model has {list(modules.shapes[name])}")
    if unexpected or wrong:
        raise FileFormatError(
            f"{os.fspath(path)} does not fit {modules.family.title}", unexpected=unexpected, wrong_shape=wrong
        )
    return names


def _without_kernel(weight: Shape) -> Shape:
    """A Linear and a 1x1 convolution hold the same numbers: sd-scripts wrote SD2's proj_in as either."""
    return weight[:2] if weight[2:] == (1, 1) else weight


def _layer(
    module: FileModule,
    weight: Shape,
    axis: NormAxis | None,
    tensors: Mapping[str, Tensor],
    default_alpha: Callable[[int], float],
) -> Layer:
    own = {role: tensors[key] for role, key in module.keys.items()}
    if "diff" in own:
        return FullWeights(own["diff"].reshape(weight))
    down = own["down"] if "mid" not in own else _without_tucker_core(own["down"], own["mid"])
    magnitude = own.get("dora_scale", own.get("peft_magnitude"))
    return LayerWeights(
        down=down.reshape(module.rank, *weight[1:]),
        up=own["up"].reshape(weight[0], module.rank, *[1] * (len(weight) - 2)),
        alpha=own["alpha"].item() if "alpha" in own else default_alpha(module.rank),
        magnitude=None if axis is None or magnitude is None else magnitude.reshape(magnitude_shape(weight, axis)),
    )


def _without_tucker_core(down: Tensor, mid: Tensor) -> Tensor:
    """LyCORIS' up . mid . down as up . down': down'[i, n, h, w] = sum_j mid[i, j, h, w] down[j, n]."""
    return torch.einsum("ijhw,jn->inhw", mid.float(), down.flatten(1).float())


@dataclass(frozen=True)
class WrittenAdapter:
    file: Written
    added: tuple[str, ...]  # text-encoder projections without effect, see `completed`
    full_precision: tuple[str, ...]  # keys of factors or differences in float32


def write_adapter(
    path: str | os.PathLike[str],
    state: AdapterState,
    modules: ModelModules,
    layout: Layout = "kohya",
    about: About | None = None,
    base: BaseWeights | None = None,
    precision: Precision = "half",
) -> WrittenAdapter:
    """One file of the adapter, atomically; the same arguments give the same bytes.

    `base` holds the model's weights by neutral name. Needed are those of all layers for "diff" and "kohya-compensated",
    and for DoRA those of text-encoder projections that have to be added. `precision` "half" stores in float16 what
    float16 can keep; magnitudes are float32 always. FileFormatError where the layout cannot hold this adapter; OSError
    leaves no file behind.
    """
    weights = base or {}
    _check(path, state, modules, layout)
    _check_base(state, layout, weights)
    whole = completed(state, weights)
    tensors = file_tensors(whole, layout, modules, weights, precision)
    metadata = file_metadata(PurePath(path).stem, _contents(whole, modules, layout), about or About())
    if layout != "peft":
        metadata |= kohya_hashes(tensors, metadata)
    return WrittenAdapter(
        file=write_tensors(path, tensors, metadata),
        added=tuple(sorted(whole.layers.keys() - state.layers.keys())),
        full_precision=tuple(sorted(key for key in tensors if _is_factor(key) and tensors[key].dtype == torch.float32)),
    )


def modules_of(family: str, components: Mapping[str, nn.Module]) -> ModelModules:
    """The modules of a model at hand, nothing injected yet: `components` as diffusers calls them (``unet``, ...).

    Of text encoders those inside the layers: no other program adapts the projection behind them.
    """
    shapes = {
        neutral_name(component, path): tuple(module.weight.shape)
        for component, model in components.items()
        for path, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules())  # torch leaves it untyped
        if isinstance(module, nn.Linear | nn.Conv2d) and (component == "unet" or ".layers." in path)
    }
    return ModelModules(FAMILIES[family], shapes)


def _check(path: str | os.PathLike[str], state: AdapterState, modules: ModelModules, layout: Layout) -> None:
    name = PurePath(path).name
    if not state.layers:
        raise FileFormatError(f"nothing to write to {name}: the adapter has no layers")
    if layout == "kohya-compensated" and not name.endswith(NAME_ENDINGS[layout]):
        raise FileFormatError(f"{name} renders rightly in few programs: end its name with {NAME_ENDINGS[layout]!r}")
    if state.form == "full" and layout != "diff":
        raise FileFormatError(f"{name} would hold factors, and the adapter is full differences: use the layout diff")
    if layout == "peft" and state.norm_axis == "input":
        raise FileFormatError(
            "PEFT and diffusers know DoRA on the output axis only: use the kohya layout or a merged model"
        )
    if layout == "kohya-compensated" and state.norm_axis != "output":
        raise FileFormatError("only DoRA on the output axis needs compensation: use the kohya layout")
    not_finite = [name for name, layer in state.layers.items() if not _is_finite(layer)]
    if not_finite:
        raise FileFormatError(f"{len(not_finite)} layers have values that are not finite, first {min(not_finite)}")
    unexpected = state.layers.keys() - modules.shapes.keys()
    wrong = [
        f"{name}: {list(adapted)} where the model has {list(modules.shapes[name])}"
        for name, adapted in ((name, layer.weight_shape) for name, layer in state.layers.items())
        if name not in unexpected and adapted != modules.shapes[name]
    ]
    if unexpected or wrong:
        raise FileFormatError(
            f"the adapter does not fit these modules of {modules.family.title}",
            unexpected=unexpected,
            wrong_shape=wrong,
        )


def _check_base(state: AdapterState, layout: Layout, base: BaseWeights) -> None:
    missing = [name for name in needed_weights(state, layout) if name not in base]
    if missing:
        raise FileFormatError(f"the layout {layout!r} needs base weights for this adapter: pass them", missing=missing)


def _is_factor(key: str) -> bool:
    return role_of(key) in ("down", "up", "diff")


def _is_finite(layer: Layer) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in layer.tensors.values())


def _contents(state: AdapterState, modules: ModelModules, layout: Layout) -> Contents:
    factors = state.factors
    is_conv = {name: layer.down.shape[2:].numel() > 1 for name, layer in factors.items()}
    return Contents(
        family=modules.family,
        layout=layout,
        kind=state.kind,
        norm_axis=state.norm_axis,
        ranks=frozenset(layer.rank for name, layer in factors.items() if not is_conv[name]),
        conv_ranks=frozenset(layer.rank for name, layer in factors.items() if is_conv[name]),
    )
