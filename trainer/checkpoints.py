"""Checkpoints that are there whole or not at all, and bring a run back exactly where it was.

A checkpoint is a folder ``step-000500`` with adapter.safetensors, optimizer.safetensors and step.json, which has the
hashes of both. It is written under another name and gets its own by one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dora_core.adapter import Adapter
from dora_core.atomic import atomic_write, replace
from dora_core.errors import FileFormatError
from dora_core.families import neutral_name
from dora_core.header import read_header
from dora_core.state import AdapterState, FullWeights, Layer, LayerWeights
from dora_core.tensorfile import write_tensors
from trainer.config_errors import SETTINGS
from trainer.disk import require_free
from trainer.failures import ResumeRefusedError
from trainer.faults import crash_point
from trainer.optim import named_parameters
from trainer.optimizer_state import OptimizerState, put_back, read_optimizer, state_of, write_optimizer
from trainer.training import Training

VERSION = 1
ADAPTER, OPTIMIZER, DESCRIPTION = "adapter.safetensors", "optimizer.safetensors", "step.json"
UNFINISHED = ".tmp-"
OWN_VALUE = "value"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint; `description` is its step.json."""

    folder: Path
    description: Mapping[str, Any]

    @property
    def step(self) -> int:
        return self.description["progress"]["step"]


@dataclass(frozen=True)
class CheckpointStore:
    folder: Path
    keep_last: int

    def save(self, training: Training) -> Path:
        """Write the present state, then delete all but the newest few. OSError leaves what was there as it was."""
        final = self.folder / f"step-{training.progress.step:06d}"
        if _read(final) is None:  # else the same step was saved before: the same bytes
            require_free(self.folder, size_bytes(training), "the checkpoint")
            self._write(training, final)
        crash_point("checkpoint.promoted")
        self.prune(final)
        crash_point("checkpoint.pruned")
        return final

    def newest(self) -> Checkpoint | None:
        """The last complete and undamaged checkpoint."""
        found = (_read(folder) for folder in reversed(self._folders()))
        return next((checkpoint for checkpoint in found if checkpoint), None)

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint of that step, if it is complete and undamaged."""
        return _read(self.folder / f"step-{step:06d}")

    def clean(self) -> None:
        """Remove what a killed process left behind."""
        for left in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _write(self, training: Training, final: Path) -> None:
        temporary = self.folder / f"{UNFINISHED}{final.name}-{secrets.token_hex(4)}"
        self.folder.mkdir(exist_ok=True)
        temporary.mkdir()  # no parents: a run that was moved away meanwhile is not made again
        try:
            crash_point("checkpoint.begun")
            hashes = {ADAPTER: write_state(temporary / ADAPTER, training.state())}
            crash_point("checkpoint.adapter")
            hashes[OPTIMIZER] = write_optimizer(temporary / OPTIMIZER, _optimizer_state(training))
            crash_point("checkpoint.optimizer")
            _write_description(temporary / DESCRIPTION, training, hashes)
            crash_point("checkpoint.described")
            if final.exists():  # damaged, or it would have been found
                shutil.rmtree(final)
            replace(temporary, final)
            _sync_folder(self.folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def prune(self, newest: Path) -> None:
        """Delete all but the last few up to `newest`, which is whole. One that is damaged never costs one that is."""
        for old in [folder for folder in self._folders() if folder <= newest][: -self.keep_last]:
            away = old.with_name(f"{UNFINISHED}{old.name}-{secrets.token_hex(4)}")
            shutil.rmtree(old.rename(away))


def size_bytes(training: Training) -> int:
    """Of a checkpoint: parameters, what the optimizer keeps and, beside an average, the parameters themselves."""
    state_bytes = training.optimizer_row.state_bytes
    own = 1 if training.average is None else 2
    parameters = named_parameters(training.adapters).values()
    return sum(own * p.numel() * p.element_size() + state_bytes(tuple(p.shape)) for p in parameters)


def restore(training: Training, checkpoint: Checkpoint) -> None:
    """Bring adapters, optimizer and progress back; raises ResumeRefusedError where the run is no longer the same."""
    check_identity(checkpoint.description["identity"], training.identity)
    load_weights(training.adapters, read_state(checkpoint.folder / ADAPTER))
    named = named_parameters(training.adapters)
    state = read_optimizer(checkpoint.folder / OPTIMIZER)
    if training.average is not None:
        training.average.restore()
        _put_own_values(named, state)
        for adapter in training.adapters.values():
            adapter.refresh_norms()
    put_back(state, training.optimizer, named)
    training.scaler.load_state_dict(checkpoint.description["scaler"])
    for key, value in checkpoint.description["progress"].items():
        setattr(training.progress, key, value)


@torch.no_grad()
def load_weights(adapters: Mapping[str, Adapter], state: AdapterState) -> None:
    """The numbers alone: a scale computed back from alpha and rank could be off by one bit."""
    for part, adapter in adapters.items():
        for path, layer in adapter.layers.items():
            saved = state.layers[neutral_name(part, path)]
            for own, parameter in layer.own_parameters().items():
                parameter.copy_(saved.tensors[own])
        adapter.refresh_norms()


def check_identity(saved: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raises ResumeRefusedError naming the first setting in which two identities differ.

    A setting that did not exist when the checkpoint was made had what is its default now.
    """
    saved = {name: SETTINGS[name].default for name in wanted.keys() - saved.keys() if name in SETTINGS} | dict(saved)
    if (gamma := saved.pop("train.min_snr_gamma", None)) is not None:  # as config.renewed has it
        saved |= {"loss.weighting": "min-snr", "loss.min_snr_gamma": gamma}
    for name in [*wanted, *saved.keys() - wanted.keys()]:
        if saved.get(name) != wanted.get(name):
            raise ResumeRefusedError(name, saved.get(name), wanted.get(name))


def write_state(path: Path, state: AdapterState) -> str:
    """All numbers of a state as they are; returns the file's SHA-256. FileFormatError where one is not finite."""
    layers = state.layers.items()
    tensors = {f"{name}.{part}": tensor for name, layer in layers for part, tensor in layer.tensors.items()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise FileFormatError(
            f"{len(broken)} tensors of the adapter hold values that are no numbers, first {broken[0]}"
        )
    alphas = {name: layer.alpha for name, layer in sorted(state.factors.items())}
    metadata = {"dora_studio.state": "1", "norm_axis": state.norm_axis or "", "alphas": json.dumps(alphas)}
    return write_tensors(path, tensors, metadata).sha256


def read_state(path: Path) -> AdapterState:
    """What `write_state` wrote: the adapter of a checkpoint."""
    metadata = read_header(path).metadata
    tensors = load_file(path)
    layers: dict[str, Layer] = {
        name: LayerWeights(tensors[f"{name}.down"], tensors[f"{name}.up"], alpha, tensors.get(f"{name}.magnitude"))
        for name, alpha in json.loads(metadata["alphas"]).items()
    }
    ending = ".difference"
    layers |= {key.removesuffix(ending): FullWeights(t) for key, t in tensors.items() if key.endswith(ending)}
    axis = metadata["norm_axis"]
    return AdapterState(layers, "input" if axis == "input" else "output" if axis == "output" else None)


def _optimizer_state(training: Training) -> OptimizerState:
    """With the parameters' own values where the adapter's file has their average."""
    named = named_parameters(training.adapters)
    state = state_of(training.optimizer, named, training.optimizer_row.group_state)
    if training.average is not None:
        for name, parameter in named.items():
            state.setdefault(name, {})[OWN_VALUE] = parameter.detach()
    return state


@torch.no_grad()
def _put_own_values(named: Mapping[str, nn.Parameter], state: OptimizerState) -> None:
    for name, parameter in named.items():
        own = state[name].pop(OWN_VALUE)
        assert isinstance(own, Tensor)
        parameter.copy_(own)


def _write_description(path: Path, training: Training, hashes: Mapping[str, str]) -> None:
    description = {
        "v": VERSION,
        "progress": asdict(training.progress),
        "identity": dict(training.identity),
        "scaler": training.scaler.state_dict(),
        "threads": torch.get_num_threads(),
        "sha256": dict(hashes),
    }
    with atomic_write(path) as file:
        file.write(json.dumps(description, indent=1, allow_nan=False).encode())


def _read(folder: Path) -> Checkpoint | None:
    """None where a file is missing or damaged."""
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        if description["v"] != VERSION:
            return None
        for name, wanted in description["sha256"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                    return None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None
    return Checkpoint(folder, description)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a loss of power; Windows has no such call."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
