"""Tensors that cost something to compute, kept on disk under a key that names everything they depend on."""

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
    """One small safetensors file per entry. A stale entry cannot be found: its key would be another one."""

    folder: Path

    def get(self, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What was stored under `key`, else what `compute` gives, stored for the next time."""
        path = self.folder / key[:2] / f"{key}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError:
                path.unlink()  # damaged: computed again
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()}
        write_tensors(path, tensors, {})
        crash_point("cache.stored")
        return tensors


def cache_key(*facts: object) -> str:
    """A name for the entry that depends on all `facts`."""
    return hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()
