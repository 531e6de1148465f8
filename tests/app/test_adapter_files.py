"""Exported files on disk: what is told of them, and what renaming, deleting and copying leave."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.adapter_files import (
    AdapterFile,
    NameTakenError,
    NoSuchFileError,
    delete,
    files_of,
    find,
    rename,
    restore,
)
from app.adapters_view import proof, targets_of
from app.comfyui_folder import NoComfyUIError, copy, loras_folder, remembered
from app.compare_form import Asked, choices, count
from app.known_runs import known_runs
from app.studio import Studio
from app.what_is import NotKnownError, of_header, of_path
from tests.app.twin_home import TwinHome
from trainer.compare.finished import exported
from trainer.failures import ExplainedError
from trainer.home import Home


@pytest.fixture
def twins(twin_home: TwinHome, tmp_path: Path) -> TwinHome:
    """A copy of its own."""
    shutil.copytree(twin_home.path, tmp_path / "copy")
    return twin_home.at(tmp_path / "copy")


@pytest.fixture
def file(twins: TwinHome) -> AdapterFile:
    """Of the DoRA."""
    (found,) = files_of(twins.dora)
    return found


def hashed(file: AdapterFile) -> str:
    while (found := file.sha256) is None:
        pass
    return found


def test_a_renamed_file_keeps_its_report_its_ending_and_its_run(twins: TwinHome, file: AdapterFile) -> None:
    key = rename(twins.studio, file.key, " Worms, v2.safetensors ")
    found = find(twins.studio, key)
    assert key == f"{twins.dora.id}/Worms, v2.safetensors"
    assert exported(twins.dora).file == "exports/Worms, v2.safetensors"
    assert found.report is not None
    assert found.report["file"] == "Worms, v2.safetensors"
    assert proof(found.report, hashed(found))["state"] == "proven"
    assert sorted(path.name for path in twins.dora.exports_dir.iterdir()) == [
        "Worms, v2.parity.json",
        "Worms, v2.safetensors",
    ]
    assert rename(twins.studio, rename(twins.studio, key, "again"), "Worms, v2") == key


@pytest.mark.parametrize("name", ["", " ", ".", "../x", "a/b", "a\\b", "a:b", "a\0b", "x" * 121, "?"])
def test_what_is_no_files_name_is_refused(twins: TwinHome, file: AdapterFile, name: str) -> None:
    with pytest.raises(ExplainedError, match="cannot be a file's name"):
        rename(twins.studio, file.key, name)
    assert find(twins.studio, file.key) == file


def test_no_other_file_loses_its_name(twins: TwinHome, file: AdapterFile) -> None:
    other = file.path.with_name("other.safetensors")
    other.write_bytes(b"other")
    with pytest.raises(NameTakenError):
        rename(twins.studio, file.key, "other")
    assert other.read_bytes() == b"other"


def test_the_ending_that_says_whom_a_file_is_for_stays(twins: TwinHome, file: AdapterFile) -> None:
    special = file.path.with_name("a-diffusers.safetensors")
    shutil.copy(file.path, special)
    key = rename(twins.studio, f"{twins.dora.id}/{special.name}", "b.safetensors")
    assert key == f"{twins.dora.id}/b-diffusers.safetensors"


def test_a_deleted_file_comes_back_with_its_report(twins: TwinHome, file: AdapterFile) -> None:
    before = {path.name: path.read_bytes() for path in twins.dora.exports_dir.iterdir()}
    delete(twins.studio, file.key)
    assert files_of(twins.dora) == []
    assert not list(twins.dora.exports_dir.glob("*.*safetensors"))
    with pytest.raises(NoSuchFileError):
        delete(twins.studio, file.key)
    file.path.write_bytes(b"another")
    with pytest.raises(NameTakenError):
        restore(twins.studio, file.key)
    file.path.unlink()
    restore(twins.studio, file.key)
    after = {path.name: path.read_bytes() for path in twins.dora.exports_dir.iterdir() if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "key", ["", "/", "x", "..", "../runs/x", "nobody/a.safetensors", "{run}/../run.toml", "{run}/", "{run}/.removed/a"]
)
@pytest.mark.parametrize("act", [find, delete, restore])
def test_keys_lead_to_files_of_runs_and_nowhere_else(
    twins: TwinHome, key: str, act: Callable[[Studio, str], object]
) -> None:
    before = sorted(twins.path.rglob("*"))
    with pytest.raises(NoSuchFileError):
        act(twins.studio, key.format(run=twins.dora.id))
    assert [path for path in sorted(twins.path.rglob("*")) if path.name != ".removed"] == before


def test_a_file_that_changed_is_proven_no_more(twins: TwinHome, file: AdapterFile) -> None:
    assert proof(file.report, hashed(file))["state"] == "proven"
    data = bytearray(file.path.read_bytes())
    data[-1] ^= 1  # a bit of the tensors: its header and its size are as before
    file.path.write_bytes(data)
    changed = find(twins.studio, file.key)
    told = proof(changed.report, hashed(changed))
    assert told["state"] == "changed"
    assert "has changed since" in told["text"]
    assert [row["word"] for row in told["rows"]].count("as trained") == 6


@pytest.mark.parametrize("text", ["", "[]", "{", '"text"', "\ufffd"])
def test_reports_that_cannot_be_read_are_none(twins: TwinHome, file: AdapterFile, text: str) -> None:
    file.path.with_suffix(".parity.json").write_text(text)
    assert file.report is None
    assert proof(file.report, hashed(file))["state"] == "none"


def test_reports_with_anything_in_them_are_shown_without_an_error() -> None:
    for report in ({}, {"consumers": 3}, {"consumers": [1, {}]}, {"not_certified": {"a": 1}, "headline": None}):
        assert proof(report, "x")["state"] == "changed"


def test_targets_are_those_that_can_hold_the_adapter_each_kind_of_file_once(twins: TwinHome) -> None:
    known = {one.kind: one for one in known_runs(Home(twins.path)).all()}
    assert [target.name for target in targets_of(known["lora"])] == ["comfyui", "diffusers", "diff"]
    assert [target.name for target in targets_of(known["dora"])] == ["comfyui", "diff"]
    shutil.rmtree(twins.dora.checkpoints_dir)
    assert targets_of(known["dora"]) == []


def test_a_run_whose_file_is_gone_cannot_be_compared_and_says_so(twins: TwinHome, file: AdapterFile) -> None:
    delete(twins.studio, file.key)
    reasons = {run["kind"]: run["reason"] for run in choices(twins.studio)}
    assert reasons == {"lora": "", "dora": f"its file exports/{file.path.name} is gone"}


def test_pictures_are_counted_as_they_are_drawn(twins: TwinHome, file: AdapterFile) -> None:
    lora, dora = twins.lora.id, twins.dora.id
    assert count(twins.studio, Asked(sources=[lora, dora]))["pictures"] == 6
    many = Asked(
        sources=[dora, f"{dora}@2"], files=f" {file.path} ", prompts="a\n\nb\na", strengths="0.5; 1", seeds="1 2,3"
    )
    assert count(twins.studio, many) == {"rows": 6, "columns": 7, "pictures": 42}
    with pytest.raises(ExplainedError, match="201 rows by 2 columns; the limit is 400"):
        count(twins.studio, Asked(sources=[dora], prompts="a", seeds=",".join(map(str, range(201)))))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "Nothing is chosen"),
        ({"sources": ["nobody"]}, "The run nobody is not there"),
        ({"files": "/nowhere/a.safetensors"}, "There is no file /nowhere/a.safetensors"),
        ({"sources": ["{dora}"], "strengths": "five"}, "strengths.0 is 'five'"),
        ({"sources": ["{dora}"], "strengths": "nan"}, "strengths.0 is 'nan'"),
        ({"sources": ["{dora}"], "steps": "0"}, "steps.0 is '0'"),
        ({"sources": ["{dora}"], "seeds": "-1"}, "seeds.0 is '-1'"),
        ({"sources": ["{dora}"], "guidance": "1e9"}, "guidance.0 is '1e9'"),
    ],
)
def test_what_cannot_be_drawn_is_told_before(twins: TwinHome, asked: dict[str, Any], said: str) -> None:
    asked = {**asked, "sources": [each.format(dora=twins.dora.id) for each in asked.get("sources", [])]}
    with pytest.raises(ExplainedError, match=said.replace("(", r"\(")):
        count(twins.studio, Asked(**asked))


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    (tmp_path / "ComfyUI" / "models" / "loras").mkdir(parents=True)
    return tmp_path / "ComfyUI"


def test_comfyui_is_known_by_its_folders(comfyui: Path, tmp_path: Path) -> None:
    loras = comfyui / "models" / "loras"
    for given in (comfyui, comfyui / "models", loras):
        assert loras_folder(f" {given} ") == loras
    for wrong in ("", "ComfyUI", str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(NoComfyUIError):
            loras_folder(wrong)


def test_a_copy_takes_nobodys_place(twins: TwinHome, file: AdapterFile, comfyui: Path) -> None:
    there = comfyui / "models" / "loras" / file.path.name
    assert str(there) in copy(twins.studio, file, str(comfyui))
    assert there.read_bytes() == file.path.read_bytes()
    assert "the same to the byte" in copy(twins.studio, file, str(comfyui))
    there.write_bytes(b"somebody's own")
    with pytest.raises(NameTakenError, match="is another file"):
        copy(twins.studio, file, str(comfyui))
    copy(twins.studio, file, str(comfyui), "mine")
    assert there.read_bytes() == b"somebody's own"
    assert (there.parent / "mine.safetensors").read_bytes() == file.path.read_bytes()
    assert len(list(there.parent.iterdir())) == 2
    assert remembered(twins.studio) == str(comfyui)
    assert remembered(Studio(Home(comfyui))) == ""


def test_a_full_disk_leaves_nothing_in_comfyui(
    twins: TwinHome, file: AdapterFile, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = AdapterFile(file.run, file.path, (file.stamp[0], 2**60))
    with pytest.raises(OSError, match="the copy needs"):
        copy(twins.studio, huge, str(comfyui))
    assert not list((comfyui / "models" / "loras").iterdir())


def head_of(path: Path) -> bytes:
    """What the page sends of a file."""
    data = path.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def test_the_header_alone_tells_what_the_whole_file_is(studio: Studio, twins: TwinHome, file: AdapterFile) -> None:
    told = of_header(studio, file.path.name, file.path.stat().st_size, head_of(file.path))
    assert told == of_path(str(file.path))
    assert told["title"] == "DoRA, norm over the input axis"
    assert dict(told["facts"])["rank"] == "2"
    assert "ComfyUI" in told["exact"]
    assert ["diffusers", "a plain LoRA: ignores dora_scale"] in [list(pair) for pair in told["wrong"]]
    assert not list(studio.incoming.iterdir())


def test_a_truncated_file_is_told_by_its_size(studio: Studio, file: AdapterFile) -> None:
    size = file.path.stat().st_size
    for wrong in (size - 1, size + 1):
        with pytest.raises(NotKnownError, match=r"a\.safetensors"):
            of_header(studio, "a.safetensors", wrong, head_of(file.path))


def test_a_model_of_eight_gigabytes_is_told_by_its_header(studio: Studio) -> None:
    tensors = {"model.diffusion_model.x": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}
    text = json.dumps(tensors).encode()
    head = len(text).to_bytes(8, "little") + text
    with pytest.raises(NotKnownError, match="is a checkpoint of none of"):
        of_header(studio, "big.safetensors", len(head) + 2**33, head)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.safetensors", b"", "is no whole safetensors file"),
        ("a.safetensors", b"junk of some length", "is no whole safetensors file"),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0{}", "the file has no tensors"),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0[]", "damaged header"),
        ("a.ckpt", b"anything", "is a pickle"),
        ("a.safetensors", pickle.dumps({"a": 1}), "is a pickle"),
    ],
)
def test_what_is_nothing_that_we_know_is_told_by_its_own_name(
    studio: Studio, tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    with pytest.raises(NotKnownError, match=said) as dropped:
        of_header(studio, name, len(data), data)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NotKnownError, match=said) as placed:
        of_path(str(tmp_path / name))
    assert str(dropped.value) == str(placed.value)
    assert str(tmp_path) not in str(placed.value)


def test_a_zip_that_torch_wrote_is_a_pickle_whatever_its_name(studio: Studio, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    with pytest.raises(NotKnownError, match="can run code when it is opened"):
        of_path(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("path", ["", "relative.safetensors", "/nowhere/at all.safetensors"])
def test_paths_that_lead_nowhere_are_told(path: str) -> None:
    with pytest.raises(NotKnownError):
        of_path(path)
