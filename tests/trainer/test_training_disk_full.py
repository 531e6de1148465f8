"""A disk that is full at any file of a run: told, nothing half left, and the run goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from trainer.checkpoints import CheckpointStore
from trainer.config import RunConfig
from trainer.data.scan import picture_files
from trainer.events import Failed, Warned, read_events
from trainer.run_dir import RunDir
from trainer.session import run_training

if sys.platform == "win32":
    pytest.skip("limits of file sizes are a thing of POSIX", allow_module_level=True)

from tests.trainer.full_disk import FullDisk, Told, do_in_child, kind_of

Settings = Callable[..., RunConfig]


@pytest.fixture
def config(tiny_settings: Settings) -> RunConfig:
    """Of a run that writes every kind of file: class pictures, both caches, samples, two checkpoints, an export."""
    return tiny_settings(train__steps=2, data__prior={"class_prompt": "a thing", "count": 1}, sample__every_steps=1)


@pytest.fixture
def straight(tmp_path: Path, config: RunConfig) -> tuple[RunDir, Told]:
    """The run that nothing disturbs, and what it wrote."""
    run = RunDir.create(tmp_path / "straight" / "runs", config)
    return run, do_in_child(partial(run_training, run), tmp_path)


def test_a_disk_that_is_full_at_a_file_of_any_kind(
    tmp_path: Path, config: RunConfig, straight: tuple[RunDir, Told]
) -> None:
    run, told = straight
    kinds = {kind_of(file): number for number, file in enumerate(told.written, start=1)}
    assert len(kinds) > 12
    for number in kinds.values():
        check(tmp_path, config, run, FullDisk(number, lasting=False))


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_is_full_at_any_file(
    tmp_path: Path, config: RunConfig, straight: tuple[RunDir, Told], lasting: bool
) -> None:
    run, told = straight
    for number in range(1, len(told.written) + 1):
        check(tmp_path, config, run, FullDisk(number, lasting))


def check(tmp_path: Path, config: RunConfig, straight: RunDir, disk: FullDisk) -> None:
    run = RunDir.create(tmp_path / f"{disk.number} {disk.lasting}" / "runs", config)
    told = do_in_child(partial(run_training, run), tmp_path, disk)
    failed_at = told.written[disk.number - 1]
    print(f"file {disk.number}, {failed_at.name}: {told.category or 'went on'}. {told.sentence}")
    check_is_whole(run)
    events = read_events(run.events_file)[0]
    if told.category:
        assert (told.category, "The disk is full" in told.sentence, "Free some space" in told.fix) == (
            "disk full",
            True,
            True,
        )
        assert disk.lasting or (isinstance(events[-1], Failed) and events[-1].sentence == told.sentence)
        assert do_in_child(partial(run_training, run), tmp_path).category == ""
    else:  # samples are not worth the training; what takes no bytes needs no room
        assert "samples" in failed_at.parts[-3:] or failed_at.name == "run.lock"
        assert failed_at.name == "run.lock" or any(isinstance(e, Warned) and "disk is full" in e.text for e in events)
    assert outcome(run) == outcome(straight)


def check_is_whole(run: RunDir) -> None:
    """Everything that has its final name can be read to its end, and nothing else is left of what failed."""
    home = run.path.parent.parent
    left = [path for path in home.rglob("*") if ".tmp" in path.name or path.name.startswith(".")]
    assert left == []
    steps = len(list(run.checkpoints_dir.iterdir()))
    assert steps == 0 or CheckpointStore(run.checkpoints_dir, 1).newest() is not None
    for file in home.rglob("*.safetensors"):
        load_file(file)
    for file in home.rglob("*.json"):
        json.loads(file.read_bytes())
    for folder in run.samples_dir.iterdir():
        assert all((folder / row["file"]).is_file() for row in json.loads((folder / "samples.json").read_bytes()))
    for folder in (*run.samples_dir.iterdir(), *(home / "class-pictures").glob("*")):
        for file in picture_files(folder):
            Image.open(file).load()
    for file in run.exports_dir.glob("*.safetensors"):
        report = json.loads(file.with_suffix(".parity.json").read_bytes())
        assert report["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def outcome(run: RunDir) -> dict[str, bytes]:
    """The bytes that must not depend on what happened on the way."""
    files = [*run.checkpoints_dir.rglob("*.safetensors"), *run.exports_dir.glob("*.safetensors")]
    return {file.relative_to(run.path).as_posix(): file.read_bytes() for file in files}
