"""A tiny pipeline as one checkpoint file with the original names: what people download as ``model.safetensors``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dora_core.families import FAMILIES, ModelModules
from dora_core.keymap import module_paths

_VAE_NAMES = (
    (r"(encoder|decoder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
    (r"(encoder|decoder)\.mid_block\.attentions\.0", lambda m: f"{m[1]}.mid.attn_1"),
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"encoder.down.{m[1]}.block.{m[2]}"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", lambda m: f"encoder.down.{m[1]}.downsample"),
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"decoder.up.{3 - int(m[1])}.block.{m[2]}"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{3 - int(m[1])}.upsample"),
    (r"conv_norm_out", lambda m: "norm_out"),
    (r"conv_shortcut", lambda m: "nin_shortcut"),
    (r"group_norm", lambda m: "norm"),
    (r"to_([qkv])\.", lambda m: f"{m[1]}."),
    (r"to_out\.0", lambda m: "proj_out"),
)
_NORMS = {"norm1": ("conv1", ".in_layers.2", ".in_layers.0"), "norm2": ("conv2", ".out_layers.3", ".out_layers.0")}


_TEXT = {"sd1": "cond_stage_model.transformer.text_model.", "sd2": "cond_stage_model.model."}
_TEXTS_OF_SDXL = {
    "text_encoder": "conditioner.embedders.0.transformer.text_model.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_OPENCLIP_NAMES = (
    ("encoder.layers.", "transformer.resblocks."),
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm.", "ln_final."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("self_attn.out_proj.", "attn.out_proj."),
)


def write_checkpoint(family: str, folder: Path, file: Path, with_configs: bool = True) -> None:
    """The diffusers folder as one file, and beside it a folder with all that is no weights, as tiny ones need."""
    save_file(checkpoint(family, folder), file)
    if with_configs:
        shutil.copytree(folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))


def checkpoint(family: str, folder: Path) -> dict[str, Tensor]:
    parts = ("unet", "vae", *(_TEXTS_OF_SDXL if family == "sdxl" else ("text_encoder",)))
    return named_as_original(family, {part: _weights(folder / part) for part in parts})


def named_as_original(family: str, weights: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """`weights`: by part, under diffusers' and transformers' names."""
    tensors = {f"model.diffusion_model.{key}": value for key, value in original_unet(family, weights["unet"]).items()}
    for key, value in weights["vae"].items():
        tensors[f"first_stage_model.{_vae_name(key)}"] = value[..., None, None] if _is_vae_linear(key, value) else value
    for part, prefix in (_TEXTS_OF_SDXL if family == "sdxl" else {"text_encoder": _TEXT[family]}).items():
        bare = {key.removeprefix("text_model."): value for key, value in weights[part].items()}
        named = _openclip(bare) if prefix.endswith(".model.") else bare
        tensors |= {f"{prefix}{key}": value for key, value in named.items()}
    return {key: value.contiguous() for key, value in tensors.items()}


def _openclip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k and v in one matrix, the projection the other way around."""
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        if ".q_proj." in key:
            thirds = [weights[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            key, value = key.replace("self_attn.q_proj.", "attn.in_proj_"), torch.cat(thirds)
        elif ".k_proj." in key or ".v_proj." in key:
            continue
        elif key == "text_projection.weight":
            key, value = "text_projection", value.T
        for new, old in _OPENCLIP_NAMES:
            key = key.replace(new, old)
        named[key] = value
    return named


def _weights(folder: Path) -> dict[str, Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def original_unet(family: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {key: key.rpartition(".") for key in weights}
    modules = {f"unet.{_twin_of_norm(path)}": (1,) for path, _, _ in named.values() if path != "conv_norm_out"}
    paths = module_paths(ModelModules(FAMILIES[family], modules), "sgm")
    return {f"{_original(path, paths)}.{leaf}": weights[key] for key, (path, _, leaf) in named.items()}


def _twin_of_norm(path: str) -> str:
    """The convolution that a resnet's norm comes before."""
    return re.sub(r"(resnets\.\d)\.(norm\d)$", lambda m: f"{m[1]}.{_NORMS[m[2]][0]}", path)


def _original(path: str, paths: dict[str, str]) -> str:
    if path == "conv_norm_out":
        return "out.0"
    original = paths[f"unet.{_twin_of_norm(path)}"]
    norm = re.search(r"resnets\.\d\.(norm\d)$", path)
    return original.replace(*_NORMS[norm[1]][1:]) if norm else original


def _vae_name(key: str) -> str:
    for pattern, name in _VAE_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _is_vae_linear(key: str, value: Tensor) -> bool:
    """Attention's linears are 1x1 convolutions in the original code."""
    return ".attentions." in key and value.dim() == 2
