"""Tensors that cost something to compute, kept under a key that names everything they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dora_core.tensorfile import write_tensors
from trainer.faults import crash_point


@dataclass(frozen=True)
class TensorCache:
    """One small safetensors file per entry. A stale entry cannot be found: its key would be another one.

    `folder`: None keeps nothing: whoever asks has the tensors for as long as he holds them.
    """

    folder: Path | None

    def get(self, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What was stored under `key`, else what `compute` gives, stored for the next time."""
        if self.folder is None:
            return _computed(compute)
        path = self.folder / key[:2] / f"{key}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError:
                path.unlink()  # damaged: computed again
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = _computed(compute)
        write_tensors(path, tensors, {})
        crash_point("cache.stored")
        return tensors


def _computed(compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()}


def cache_key(*facts: object) -> str:
    """A name for the entry that depends on all `facts`."""
    return hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()
