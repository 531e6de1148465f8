"""Writing safetensors: the same tensors and metadata always give the same bytes, in place all at once.

safetensors' own writer keeps metadata in a hash map, whose order changes from call to call, and it writes in place. The
format is small enough to write directly.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dora_core.atomic import atomic_write

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Written:
    sha256: str
    size_bytes: int


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Written:
    """One safetensors file, atomically; OSError leaves neither a torn file nor a temporary one."""
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for chunk in _chunks(tensors, metadata):
            digest.update(chunk)
            file.write(chunk)
        return Written(digest.hexdigest(), file.tell())


def kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The two hashes by which A1111's extensions index a file, as sd-scripts computes them ahead of writing.

    `sshs_model_hash` is the SHA-256 of everything behind the header, `sshs_legacy_hash` the first eight digits of that
    of 64 KiB at 1 MiB; both of a file whose metadata are its ``ss_`` entries alone, since others may be edited later.
    """
    start, stop = 0x100000, 0x110000
    whole, window, position = hashlib.sha256(), hashlib.sha256(), 0
    stable = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    for index, chunk in enumerate(_chunks(tensors, stable)):
        if index > 0:
            whole.update(chunk)
        window.update(chunk[max(start - position, 0) : max(stop - position, 0)])
        position += len(chunk)
    return {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": window.hexdigest()[:8]}


def _chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """The header, then tensor by tensor: wide types first, so that each starts at a multiple of its size."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    yield memoryview(_header({name: tensors[name] for name in names}, metadata))
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.numel():
            yield memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        stop = position + tensor.nbytes
        entries[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
