"""Where the weights of a checkpoint's layers lie: its own names, told back into neutral ones. Free of torch.

By the shape of the file itself, so that smaller members of a family are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dora_core.families import Family
from dora_core.header import Shape
from trainer.checkpoint_header import modern_name


@dataclass(frozen=True)
class Place:
    """Rows `start`..`stop` of the tensor `key` (0, None: all of them), together of `shape`."""

    key: str
    shape: Shape
    start: int = 0
    stop: int | None = None


def places(family: Family, shapes: Mapping[str, Shape]) -> dict[str, Place]:
    """Neutral name -> place, of the UNet's linears and convolutions and of those in the text encoders' layers."""
    found = {modern_name(key): Place(key, shape) for key, shape in shapes.items() if len(shape) in (2, 4)}
    unet = {key.removeprefix(_UNET): place for key, place in found.items() if key.startswith(_UNET)}
    paths = {key.removesuffix(".weight"): place for key, place in unet.items() if key.endswith(".weight")}
    per_level = blocks_per_level(paths)
    named = {f"unet.{unet_path(path, per_level)}": place for path, place in paths.items()}
    for component in family.components:
        if component.name != "unet":
            named |= _of_text_encoder(component.name, found)
    return named


RELEASED_PER_LEVEL = 3  # two resnets and a downsampler
_UNET = "model.diffusion_model."
# Text encoders by transformers' names and by OpenCLIP's, SDXL's as far as it has two.
_TRANSFORMERS = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPENCLIP = {"text_encoder": "cond_stage_model.model.", "text_encoder_2": "conditioner.embedders.1.model."}
_UNUSED = "cond_stage_model.model.transformer.resblocks.23."  # SD 2 listens to the layer before
_OPENCLIP_LAYERS = {
    "attn.in_proj_weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),  # thirds of one matrix
    "attn.out_proj.weight": ("self_attn.out_proj",),
    "mlp.c_fc.weight": ("mlp.fc1",),
    "mlp.c_proj.weight": ("mlp.fc2",),
}


def _of_text_encoder(name: str, found: Mapping[str, Place]) -> dict[str, Place]:
    named: dict[str, Place] = {}
    for key, place in found.items():
        prefix = next((prefix for prefix in _TRANSFORMERS if key.startswith(prefix)), None)
        if prefix and name == "text_encoder" and ".layers." in key and key.endswith(".weight"):
            named[f"{name}.{key.removeprefix(prefix).removesuffix('.weight')}"] = place
        elif key.startswith(f"{_OPENCLIP[name]}transformer.resblocks.") and not key.startswith(_UNUSED):
            named |= dict(_of_openclip(f"{name}.text_model.encoder.layers", key.partition(".resblocks.")[2], place))
    return named


def _of_openclip(layers: str, key: str, place: Place) -> Iterator[tuple[str, Place]]:
    """`key`: number of the layer, and what is in it."""
    number, _, inner = key.partition(".")
    modules = _OPENCLIP_LAYERS.get(inner, ())
    for index, module in enumerate(modules):
        rows = place.shape[0] // len(modules)
        part = Place(place.key, (rows, *place.shape[1:]), index * rows, (index + 1) * rows)
        yield f"{layers}.{number}.{module}", part if len(modules) > 1 else place


def blocks_per_level(paths: Iterable[str]) -> int:
    """Of the original code's one row of blocks: the first downsampler ends the first level."""
    samplers = (re.fullmatch(r"input_blocks\.(\d+)\.0\.op", path) for path in paths)
    return min((int(found[1]) for found in samplers if found), default=RELEASED_PER_LEVEL)


_RESNET = {
    "in_layers.2": "conv1",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE_BLOCKS = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}


def unet_path(path: str, per_level: int) -> str:
    """diffusers' path of a module of the UNet from that of Stability's code; `dora_core.keymap` goes the other way."""
    if path in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[path]
    match path.split("."):
        case ["input_blocks", number, "0", "op"]:
            return f"down_blocks.{int(number) // per_level - 1}.downsamplers.0.conv"
        case ["input_blocks", number, place, *inner]:
            level, layer = divmod(int(number) - 1, per_level)
            return f"down_blocks.{level}.{_layer(place, layer, inner)}"
        case ["middle_block", "1", *inner]:
            return f"mid_block.attentions.0.{'.'.join(inner)}"
        case ["middle_block", number, *inner]:
            return f"mid_block.resnets.{int(number) // 2}.{_RESNET['.'.join(inner)]}"
        case ["output_blocks", number, _, "conv"]:
            return f"up_blocks.{int(number) // per_level}.upsamplers.0.conv"
        case ["output_blocks", number, place, *inner]:
            level, layer = divmod(int(number), per_level)
            return f"up_blocks.{level}.{_layer(place, layer, inner)}"
        case _:
            return path


def _layer(place: str, layer: int, inner: list[str]) -> str:
    name = ".".join(inner)
    return f"resnets.{layer}.{_RESNET[name]}" if place == "0" else f"attentions.{layer}.{name}"
