"""One .safetensors checkpoint as a pipeline. Its configs and tokenizers come along with us, so no network is needed."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dora_core.errors import FileFormatError
from dora_core.families import Family
from trainer.base_files import configs_beside
from trainer.checkpoint_header import CHECKPOINT_PARTS, modern_name
from trainer.clip_tokenizer import clip_tokenizer
from trainer.released import released_architectures, released_scheduler, released_vae

_DEFAULTS_OF_UNET = {
    name: parameter.default
    for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
    if parameter.default is not inspect.Parameter.empty
}
PAD_TOKENS = {"clip-l": "<|endoftext|>", "openclip-h": "!", "openclip-g": "!"}  # OpenCLIP fills up with token 0


def load_checkpoint(path: Path, family: Family, dtype: torch.dtype) -> dict[str, Any]:
    """Every part by its name in a pipeline, in `dtype`, but the VAE in float32; None for one that the file leaves out.

    Raises FileFormatError where weights are missing or of other shapes than the configs say.
    """
    tensors: Any = read_checkpoint(path)  # diffusers' hints know files only
    with config_folder(path, family) as configs:
        scheduler = json.loads((configs / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        options: dict[str, Any] = {"config": str(configs), "local_files_only": True}
        try:
            models = {
                "unet": UNet2DConditionModel.from_single_file(tensors, subfolder="unet", torch_dtype=dtype, **options),
                **_text_encoders(tensors, family, dtype, options),
            }
            if any(key.startswith("first_stage_model.") for key in tensors):
                models["vae"] = load_vae(tensors, configs)
        except ValueError as error:
            raise FileFormatError(
                f"{path} is not as large as the released {family.title}: put a diffusers folder with its configs "
                f"beside it, named {path.stem}. {error}"
            ) from error
    for name, model in models.items():
        _require_whole(path, name, model)
    return {
        "vae": None,
        "scheduler": getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        **_tokenizers(path, family),
        **models,
    }


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """What belongs to a part of the model, under the names that most checkpoints have; the rest stays on disk."""
    parts = tuple(prefix for prefixes in CHECKPOINT_PARTS.values() for prefix in prefixes)
    with safe_open(path, framework="pt") as file:
        return {modern_name(key): file.get_tensor(key) for key in file.keys() if key.startswith(parts)}  # noqa: SIM118


def load_vae(file: Path | dict[str, Tensor], configs: Path) -> AutoencoderKL:
    """In float32, from a file of its own or the tensors of a checkpoint; `configs`: of the base model it is for."""
    source: Any = str(file) if isinstance(file, Path) else file
    vae = AutoencoderKL.from_single_file(
        source, config=str(configs), subfolder="vae", torch_dtype=torch.float32, local_files_only=True
    )
    if isinstance(file, Path):
        _require_whole(file, "vae", vae)
    return vae


@contextmanager
def config_folder(path: Path, family: Family) -> Generator[Path, None, None]:
    """A diffusers folder without weights: the one beside the file, else the released models', for as long as needed."""
    if beside := configs_beside(path):
        yield beside
        return
    configs = {"vae/config.json": released_vae(family), "scheduler/scheduler_config.json": released_scheduler(family)}
    architectures = released_architectures()
    for component in family.components:
        configs[f"{component.name}/config.json"] = architectures[component.architecture]["config"]
    configs["unet/config.json"] = _DEFAULTS_OF_UNET | configs["unet/config.json"]  # diffusers' converter asks for them
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configs.items():
            file = Path(folder, name)
            file.parent.mkdir()
            file.write_text(json.dumps(config), encoding="utf-8")
        yield Path(folder)


def _text_encoders(
    tensors: Mapping[str, Tensor], family: Family, dtype: torch.dtype, options: Mapping[str, Any]
) -> dict[str, nn.Module]:
    architectures = released_architectures()
    return {
        component.name: create_diffusers_clip_model_from_ldm(
            getattr(transformers, architectures[component.architecture]["class"]),
            tensors,
            subfolder=component.name,
            torch_dtype=dtype,
            **options,
        )
        for component in family.components
        if component.name != "unet"
    }


def _tokenizers(path: Path, family: Family) -> dict[str, CLIPTokenizer]:
    beside = configs_beside(path)
    names = {
        component.name.replace("text_encoder", "tokenizer"): PAD_TOKENS[component.architecture]
        for component in family.components
        if component.name != "unet"
    }
    return {
        name: CLIPTokenizer.from_pretrained(beside / name) if beside else clip_tokenizer(pad)
        for name, pad in names.items()
    }


def _require_whole(path: Path, name: str, part: nn.Module) -> None:
    missing = [key for key, value in part.named_parameters() if value.is_meta]
    if missing:
        raise FileFormatError(
            f"{path} lacks {len(missing)} weights of its {name}, the first is {missing[0]}: download it again, or give "
            "another base model"
        )
