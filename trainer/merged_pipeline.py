"""A whole model with the adapter worked into its weights: for programs that read no adapter of its kind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dora_core.errors import FileFormatError
from dora_core.formats import adapted_weight
from dora_core.header import read_header
from dora_core.state import AdapterState
from dora_core.tensorfile import write_tensors
from trainer.base_weights import BaseModel, open_base
from trainer.failures import ExplainedError

_OTHER_WEIGHTS = {".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".pb", ".xml"}


class FolderInUseError(ExplainedError):
    """A folder to write to that has something in it."""

    category = "bad settings"


def export_merged(state: AdapterState, base: BaseModel, folder: str | os.PathLike[str]) -> Path:
    """A copy of the base model's diffusers folder, adapted; published when it reads back right to the last bit.

    Weights are computed in float64 and rounded once, to the type that they had. Copies of the weights in other formats
    and variants, which would still be those of the base, are left out. FolderInUseError for a folder that is not empty,
    FileFormatError for a base that is a single file or lacks a layer.
    """
    folder = Path(folder)
    _check(state, base, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent, ignore_cleanup_errors=True) as temporary:
        draft = Path(temporary) / folder.name
        files = {place.file for place in base.weights.places.values()}
        shutil.copytree(base.path, draft, ignore=_all_weights_but(files))
        for file in files:
            _merge_file(draft / file.relative_to(base.path), file, state, base)
        _check_read_back(state, base, open_base(draft))
        if folder.exists():
            folder.rmdir()
        os.replace(draft, folder)
    return folder


def _check(state: AdapterState, base: BaseModel, folder: Path) -> None:
    if not base.path.is_dir():
        raise FileFormatError(f"{base.path} is a single file: to merge, give the model as a diffusers folder")
    missing = state.layers.keys() - base.weights.keys()
    if missing:
        raise FileFormatError(f"{base.path} lacks layers that the adapter adapts", missing=missing)
    if folder.exists() and any(folder.iterdir()):
        raise FolderInUseError(f"The folder {folder} is not empty.", "Name a new one with --out.")


def _all_weights_but(kept: set[Path]) -> Callable[[str, list[str]], list[str]]:
    def ignored(directory: str, names: list[str]) -> list[str]:
        paths = (Path(directory) / name for name in names)
        return [p.name for p in paths if p.suffix in _OTHER_WEIGHTS or (_is_adapted_weight(p) and p not in kept)]

    def _is_adapted_weight(path: Path) -> bool:
        return path.suffix == ".safetensors" and path.parent in {file.parent for file in kept} | _roots

    _roots = {file.parent.parent for file in kept}
    return ignored


def _merge_file(target: Path, source: Path, state: AdapterState, base: BaseModel) -> None:
    tensors = load_file(source)
    for name, place in base.weights.places.items():
        if place.file == source and name in state.layers:
            tensors[place.key] = _adapted(name, state, base)
    write_tensors(target, tensors, read_header(source).metadata)


def _adapted(name: str, state: AdapterState, base: BaseModel) -> Tensor:
    weight = base.weights[name]
    return adapted_weight(weight.double(), state.layers[name], state.norm_axis).to(weight.dtype)


def _check_read_back(state: AdapterState, base: BaseModel, merged: BaseModel) -> None:
    for name in base.weights:
        expected = _adapted(name, state, base) if name in state.layers else base.weights[name]
        if not torch.equal(merged.weights[name], expected):
            raise OSError(f"{merged.path} does not read back as it was written, first {name}: check the disk")
