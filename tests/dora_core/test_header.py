"""The header reader believes nothing that the file's size does not bear out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dora_core.errors import FileFormatError
from dora_core.header import MAX_HEADER_BYTES, TensorEntry, read_header


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_reads_names_types_shapes_and_metadata_of_what_safetensors_wrote(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.zeros(3, 5, dtype=torch.bfloat16),
        "b": torch.zeros((), dtype=torch.float32),
        "c": torch.zeros(2, 0, 7),
        "d": torch.zeros(4, dtype=torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "file.safetensors", {"ss_v2": "False"})
    header = read_header(tmp_path / "file.safetensors")
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert {name: found.dtype for name, found in header.tensors.items()} == {
        "a.weight": "BF16",
        "b": "F32",
        "c": "F32",
        "d": "F8_E4M3",
    }
    assert header.metadata == {"ss_v2": "False"}


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    header = read_header(raw_file(tmp_path / "x.safetensors", {"a": entry(0, 24, [2, 3])}, bytes(24)))
    assert header.metadata == {}
    assert header.tensors == {"a": TensorEntry("F32", (2, 3), 0, 24)}


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_file_cut_short_anywhere_is_an_error(tmp_path: Path, cut: int) -> None:
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, tmp_path / "whole.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:cut])
    with pytest.raises(FileFormatError, match="torn"):
        read_header(torn)


def test_bytes_after_the_last_tensor_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="describes 24 bytes of data, the file has 25"):
        read_header(raw_file(tmp_path / "x.safetensors", {"a": entry(0, 24, [2, 3])}, bytes(25)))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param(b"[1, 2]", "no JSON object", id="a list"),
        pytest.param(b"{nonsense", "damaged header", id="no JSON"),
        pytest.param(b'{"a": \xff}', "damaged header", id="no UTF-8"),
        pytest.param(b"[" * 100_000, "damaged header", id="nested without end"),
        pytest.param({"__metadata__": [1]}, "__metadata__", id="metadata no object"),
        pytest.param({"a": 3}, "entry of 'a'", id="entry no object"),
        pytest.param({"a": entry(0, 24, [2, 3], "F31")}, "F31", id="unknown type"),
        pytest.param({"a": entry(0, 24, [-2, -3])}, "entry of 'a'", id="negative size"),
        pytest.param({"a": entry(0, 24, [1] * 40)}, "entry of 'a'", id="too many dimensions"),
        pytest.param({"a": {"dtype": "F32", "shape": [6]}}, "entry of 'a'", id="no offsets"),
        pytest.param({"a": entry(0, 20, [2, 3])}, r"0\.\.24 is its place", id="shorter than its shape"),
        pytest.param({"a": entry(0, 12, [3]), "b": entry(8, 20, [3])}, r"12\.\.24 is its place", id="overlap"),
        pytest.param({"a": entry(0, 12, [3]), "b": entry(16, 28, [3])}, r"12\.\.24 is its place", id="hole"),
        pytest.param({"a": entry(0, 2**62, [2**60])}, "the file has 24", id="larger than any file"),
    ],
)
def test_a_header_that_lies_is_an_error(tmp_path: Path, header: object, reason: str) -> None:
    with pytest.raises(FileFormatError, match=reason):
        read_header(raw_file(tmp_path / "x.safetensors", header, bytes(24)))


def test_a_header_longer_than_allowed_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 100)  # sparse: it takes no room on disk
    with pytest.raises(FileFormatError, match=f"announce a header of {MAX_HEADER_BYTES + 1} bytes"):
        read_header(path)


def test_a_pickle_is_named_as_the_danger_it_is(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "model.ckpt")
    with pytest.raises(FileFormatError, match=r"pickle.*convert it to \.safetensors"):
        read_header(tmp_path / "model.ckpt")


def test_tables_names_and_headers_need_no_torch() -> None:
    names = ["atomic", "errors", "families", "header", "keymap", "layouts", "metadata", "peft_config", "spec"]
    imports = "; ".join(f"import dora_core.{name}" for name in names)
    check = f"import sys; {imports}; dora_core.families.shipped_modules('sdxl'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False, cwd=Path(__file__).parents[2]).returncode == 0
