"""The weights of a base model by neutral name, read when asked for: from a diffusers folder or one checkpoint file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, ModelModules, detect_family, neutral_name
from dora_core.header import Shape, read_header
from trainer.base_files import weight_files
from trainer.checkpoint_names import places


@dataclass(frozen=True)
class StoredWeight:
    """Where a weight lies: rows `start`..`stop` of the tensor `key` in `file` (0, None: all of them)."""

    file: Path
    key: str
    shape: Shape
    start: int = 0
    stop: int | None = None


class LazyWeights(Mapping[str, Tensor]):
    """Neutral name -> weight; nothing is kept, each look-up reads from disk."""

    def __init__(self, places: Mapping[str, StoredWeight]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> Tensor:
        place = self.places[name]
        with safe_open(place.file, framework="pt") as file:
            return file.get_slice(place.key)[place.start : place.stop].reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class BaseModel:
    path: Path
    modules: ModelModules
    weights: LazyWeights

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint file; of a folder, of its weight files one after the other, the UNet's first."""
        digest = hashlib.sha256()
        for path in dict.fromkeys(place.file for place in self.weights.places.values()):
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def open_base(path: str | os.PathLike[str]) -> BaseModel:
    """The base model in a diffusers folder or a .safetensors checkpoint; raises FileFormatError for anything else."""
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_checkpoint(path)
    raise FileFormatError(
        f"{path} is neither a folder nor a file: give a diffusers folder or a .safetensors checkpoint"
    )


def _open_folder(folder: Path) -> BaseModel:
    """``unet``, ``text_encoder`` and ``text_encoder_2``, as diffusers' `save_pretrained` lays them out."""
    if not (folder / "unet").is_dir():
        raise FileFormatError(f"{folder} has no folder 'unet': give a model in diffusers' folder layout")
    unet = _component_weights(folder, "unet")
    detection = detect_family({place.key: place.shape for place in unet.values()})
    if detection is None:
        raise FileFormatError(f"{folder / 'unet'} belongs to none of {', '.join(FAMILIES)}")
    family = FAMILIES[detection.family]
    places = dict(unet)
    for component in family.components:
        if component.name != "unet" and (folder / component.name).is_dir():
            places |= _component_weights(folder, component.name)
    return _base_model(folder, detection.family, places)


def _component_weights(folder: Path, component: str) -> dict[str, StoredWeight]:
    """Linears and convolutions; of text encoders those inside the layers."""
    files = weight_files(folder / component)
    if not files:
        raise FileFormatError(
            f"{folder / component} has no .safetensors weights: save it again with safe serialization"
        )
    return {
        neutral_name(component, key.removesuffix(".weight")): StoredWeight(file, key, entry.shape)
        for file in files
        for key, entry in read_header(file).tensors.items()
        if key.endswith(".weight") and len(entry.shape) in (2, 4) and (component == "unet" or ".layers." in key)
    }


def _open_checkpoint(path: Path) -> BaseModel:
    """One file with the original names, SGM's: what ComfyUI and A1111 load."""
    header = read_header(path)
    detection = detect_family(header.shapes, header.metadata)
    if detection is None:
        raise FileFormatError(f"{path} is a checkpoint of none of {', '.join(FAMILIES)}")
    stored = {
        name: StoredWeight(path, place.key, place.shape, place.start, place.stop)
        for name, place in places(FAMILIES[detection.family], header.shapes).items()
    }
    if not any(name.startswith("unet.") for name in stored):
        raise FileFormatError(f"{path} holds no UNet: give the whole checkpoint")
    return _base_model(path, detection.family, stored)


def _base_model(path: Path, family: str, places: Mapping[str, StoredWeight]) -> BaseModel:
    modules = ModelModules(FAMILIES[family], {name: place.shape for name, place in places.items()})
    return BaseModel(path, modules, LazyWeights(places))
