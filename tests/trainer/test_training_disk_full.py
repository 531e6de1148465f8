"""A disk that is full at any file of a run: told, nothing half left, and the run goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from safetensors.torch import load_file

from trainer.checkpoints import CheckpointStore
from trainer.config import RunConfig
from trainer.data.scan import picture_files
from trainer.disk import MARGIN_BYTES, DiskFullError
from trainer.events import Failed, Warned, read_events, read_metrics
from trainer.run_dir import RunDir
from trainer.session import run_training

if sys.platform == "win32":
    pytest.skip("limits of file sizes are a thing of POSIX", allow_module_level=True)

from tests.trainer.full_disk import FullDisk, Told, do_in_child, fill, kind_of

Settings = Callable[..., RunConfig]
NEEDS_NO_ROOM = (".lock", ".jsonl")  # empty; a line may fit behind those that are there


@pytest.fixture
def config(tiny_settings: Settings) -> RunConfig:
    """Of a run that writes every kind of file: class pictures, both caches, samples, two checkpoints, an export."""
    return tiny_settings(train__steps=2, data__prior={"class_prompt": "a thing", "count": 1}, sample__every_steps=1)


@pytest.fixture
def straight(tmp_path: Path, config: RunConfig) -> tuple[RunDir, Told]:
    """The run that nothing disturbs, and what it wrote."""
    run = RunDir.create(tmp_path / "straight" / "runs", config)
    return run, do_in_child(partial(run_training, run), tmp_path)


def test_a_run_that_has_too_little_room_is_refused_before_its_first_step(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "home" / "runs", config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=MARGIN_BYTES))
    with pytest.raises(DiskFullError, match=r"the run needs .* MiB and 256 MiB to spare, but 256 MiB are free"):
        run_training(run)
    failed = read_events(run.events_file)[0][-1]
    assert isinstance(failed, Failed)
    assert failed.category == "disk full"
    assert (read_metrics(run.metrics_file)[0], list(run.checkpoints_dir.iterdir())) == ([], [])
    monkeypatch.undo()
    assert run_training(run) == "finished"


def test_a_disk_that_is_full_at_a_file_of_any_kind(
    tmp_path: Path, config: RunConfig, straight: tuple[RunDir, Told]
) -> None:
    run, told = straight
    counted = Counter(map(kind_of, told.written))
    assert len(counted) > 12
    for kind, count in counted.items():
        check(tmp_path, config, run, FullDisk(kind, count, lasting=False))


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_is_full_at_any_file(
    tmp_path: Path, config: RunConfig, straight: tuple[RunDir, Told], lasting: bool
) -> None:
    run, told = straight
    for kind, count in Counter(map(kind_of, told.written)).items():
        for number in range(1, count + 1):
            check(tmp_path, config, run, FullDisk(kind, number, lasting))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_small_disk_that_something_else_fills_up(tmp_path: Path, config: RunConfig) -> None:
    """Without a limit: the disk itself has no room for a file of each kind."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * MARGIN_BYTES}", "none", small]).returncode:
        pytest.skip("this root may not mount anything")
    try:
        homes = small / "homes"
        run = RunDir.create(homes / "straight" / "runs", config)
        told = do_in_child(partial(run_training, run), homes)
        turn_full = partial(fill, filler=small / "filler")
        for (kind, count), lasting in product(Counter(map(kind_of, told.written)).items(), (False, True)):
            check(homes, config, run, FullDisk(kind, count, lasting, turn_full))
    finally:
        subprocess.run(["umount", small], check=True)


def check(homes: Path, config: RunConfig, straight: RunDir, disk: FullDisk) -> None:
    run = RunDir.create(homes / f"{disk.kind} {disk.number} {disk.lasting}" / "runs", config)
    told = do_in_child(partial(run_training, run), homes, disk)
    print(f"file {disk.number} of kind {disk.kind}: {told.category or 'went on'}. {told.sentence}")
    disk.turn_full(False)
    check_is_whole(run)
    events = read_events(run.events_file)[0]
    if told.category:
        assert told.category == "disk full"
        assert told.sentence.startswith("The disk is full: ")
        assert told.fix.startswith("Free some space, then resume")
        assert disk.lasting or (isinstance(events[-1], Failed) and events[-1].sentence == told.sentence)
        assert do_in_child(partial(run_training, run), homes).category == ""
    elif told.full_at is not None and told.full_at.suffix not in NEEDS_NO_ROOM:
        assert "samples" in told.full_at.parts[-3:]  # they are not worth the training
        assert any(isinstance(event, Warned) and "The disk is full" in event.text for event in events)
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
