"""The header of a safetensors file: names, types and shapes without a tensor in memory, and without torch.

Layout (https://huggingface.co/docs/safetensors): a length N in eight bytes, little endian, N bytes of JSON, the data.
Everything the header claims is checked against the file's size, so that a damaged or hostile file is an error here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from dora_core.errors import FileFormatError

Shape = tuple[int, ...]

MAX_HEADER_BYTES = 32 * 2**20  # SDXL checkpoints need 0.4 MiB; the rest is room for thumbnails and tag lists
MAX_DIMENSIONS = 16

BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class TensorEntry:
    dtype: str  # as safetensors spells it: F32, BF16, ...
    shape: Shape
    start: int  # bytes from the beginning of the data
    stop: int


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: entry.shape for name, entry in self.tensors.items()}


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked header of the file at `path`; raises FileFormatError for anything but a whole safetensors file."""
    name = os.fspath(path)
    size = os.path.getsize(name)
    with open(name, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise FileFormatError(_not_a_header(name, size, length))
        text = file.read(length)
    tensors, metadata = _parse(name, text)
    _check_layout(name, tensors, size - 8 - length)
    return Header(tensors, metadata)


def _not_a_header(name: str, size: int, length: int) -> str:
    if name.endswith((".pt", ".pth", ".ckpt", ".bin")):
        return f"{name} is a pickle, which can run code when it is opened: convert it to .safetensors first"
    return f"{name} ({size} bytes) is no whole safetensors file: its first bytes announce a header of {length} bytes"


def _parse(name: str, text: bytes) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    try:
        raw = cast(object, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name} has a damaged header, download or export it again: {error}") from None
    if not isinstance(raw, dict):
        raise FileFormatError(f"{name} has a damaged header, download or export it again: it is no JSON object")
    entries = cast(dict[str, object], raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise FileFormatError(f"{name} has a damaged header: __metadata__ is no JSON object")
    return (
        {key: _entry(name, key, value) for key, value in entries.items()},
        {str(key): str(value) for key, value in cast(dict[str, object], metadata).items()},
    )


def _entry(name: str, key: str, value: object) -> TensorEntry:
    fields = _mapping(value)
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if isinstance(dtype, str) and dtype in BITS and shape is not None and offsets is not None and len(offsets) == 2:
        return TensorEntry(dtype, shape, *offsets)
    raise FileFormatError(f"{name} has a damaged header: the entry of {key!r} is {str(value)[:200]}")


def _mapping(value: object) -> Mapping[str, object]:
    return cast(Mapping[str, object], value) if isinstance(value, dict) else {}


def _sizes(value: object) -> tuple[int, ...] | None:
    items = cast(list[object], value) if isinstance(value, list) else [None]
    sizes = tuple(item for item in items if isinstance(item, int) and item >= 0)
    return sizes if len(sizes) == len(items) <= MAX_DIMENSIONS else None


def _check_layout(name: str, tensors: Mapping[str, TensorEntry], data_bytes: int) -> None:
    """Every tensor as long as its shape says, one after the other, filling the file to its end."""
    position = 0
    for key, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        length = -(-math.prod(entry.shape) * BITS[entry.dtype] // 8)
        if entry.start != position or entry.stop - entry.start != length:
            raise FileFormatError(
                f"{name} has a damaged header: {key!r}, {entry.dtype} {list(entry.shape)}, lies at bytes "
                f"{entry.start}..{entry.stop} where {position}..{position + length} is its place"
            )
        position = entry.stop
    if position != data_bytes:
        raise FileFormatError(
            f"{name} is damaged or cut short, download or export it again: its header describes {position} bytes of "
            f"data, the file has {data_bytes}"
        )
