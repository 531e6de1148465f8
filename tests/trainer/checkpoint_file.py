"""A tiny pipeline as one checkpoint file with the original names: what people download as ``model.safetensors``."""

from __future__ import annotations

import re
import shutil
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


def write_sd1_checkpoint(folder: Path, file: Path) -> None:
    """The diffusers folder of an sd1 model as one file, and beside it a folder with all that is no weights."""
    tensors = {f"model.diffusion_model.{key}": value for key, value in _unet(_weights(folder / "unet")).items()}
    for key, value in _weights(folder / "vae").items():
        tensors[f"first_stage_model.{_vae_name(key)}"] = value[..., None, None] if _is_vae_linear(key, value) else value
    for key, value in _weights(folder / "text_encoder").items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    shutil.copytree(folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))


def _weights(folder: Path) -> dict[str, Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def _unet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {key: key.rpartition(".") for key in weights}
    modules = {f"unet.{_twin_of_norm(path)}": (1,) for path, _, _ in named.values() if path != "conv_norm_out"}
    paths = module_paths(ModelModules(FAMILIES["sd1"], modules), "sgm")
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
    return ".attentions." in key and value.dim() == 2 and value.dtype == torch.float32
