"""Runs that are deleted, moved or made read-only while somebody trains or looks at them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters import small_modules
from tests.trainer.conftest import quick_settings, tiny_pipeline, write_pictures
from tests.trainer.test_loop import built
from trainer.checkpoints import CheckpointStore
from trainer.compare.publish import new_folder
from trainer.config import RunConfig
from trainer.config_io import parse_config
from trainer.device_lock import FOLDER_VARIABLE
from trainer.events import EventLog, Phase, read_events, read_last_metrics, read_metrics
from trainer.export import TARGETS, export_adapter
from trainer.failures import classify
from trainer.home import Home
from trainer.run_dir import RunDir, RunGoneError, tail
from trainer.sampling import draw_samples
from trainer.session import run_training
from trainer.shot import Shot
from trainer.store import Store

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def test_a_run_that_is_moved_away_while_it_trains_ends_and_is_not_made_again(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=3000))
    elsewhere = RunDir(tmp_path / "elsewhere")

    def move_after_two_steps() -> None:
        while len(read_metrics(run.metrics_file)[0]) < 2:
            time.sleep(0.01)
        run.path.rename(elsewhere.path)

    mover = threading.Thread(target=move_after_two_steps)
    mover.start()
    with pytest.raises(RunGoneError) as gone:
        run_training(run)
    mover.join()
    assert classify(gone.value).sentence == f"The run directory {run.path} is gone: it was deleted or moved."
    assert not run.path.exists()
    assert CheckpointStore(elsewhere.checkpoints_dir, 1).newest() is not None
    assert not elsewhere.is_locked()


def test_nothing_that_training_writes_makes_a_run_again(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    components, training = built(tmp_path, tiny_settings())
    run, shot = RunDir(tmp_path / "gone"), Shot("a cat", "", 1, 1, 1.0, 32, 32)
    writers: tuple[Callable[[], object], ...] = (
        lambda: CheckpointStore(run.checkpoints_dir, 1).save(training),
        lambda: draw_samples(components, [shot], run.samples_dir / "step-000001"),
        lambda: export_adapter(
            training.state(), {}, small_modules("sd1"), TARGETS["comfyui"], run.exports_dir / "x.safetensors"
        ),
        lambda: new_folder(run.grids_dir / "x").__enter__(),
        lambda: EventLog(run.events_file).append(Phase(name="training")),
        lambda: run.request("stop"),
    )
    for write in writers:
        with pytest.raises(FileNotFoundError):
            write()
        assert not run.path.exists()


def test_whoever_looks_at_a_run_that_was_deleted_is_told_so_or_finds_nothing(tmp_path: Path) -> None:
    store = Store(Home(tmp_path))
    run = RunDir.make(store.home.runs, "x", {"run.toml": b""})
    shutil.rmtree(run.path)
    with pytest.raises(RunGoneError, match="gone: it was deleted or moved"):
        store.status(run)
    assert store.list_runs() == []
    assert (read_events(run.events_file)[0], read_last_metrics(run.metrics_file)) == ([], [])
    assert (tail(run.log_file), run.read_exit(), run.is_locked()) == ("", None, False)
    assert CheckpointStore(run.checkpoints_dir, 1).newest() is None
    command = [sys.executable, "-m", "trainer.cli", "runs", "show", str(run.path), "--home", str(tmp_path)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (shown.returncode, "Traceback" in shown.stderr) == (1, False)
    assert "it is not there" in shown.stderr


def test_of_a_log_of_200_megabytes_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        file.truncate(200 * 2**20)  # zeros, which take no room
        file.seek(0, 2)
        file.write(b"\nbinary \xff\xfe\x00 garbage\nthe last line\n")
    tracemalloc.start()
    shown = tail(log, lines=2)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown == "binary \ufffd\ufffd\x00 garbage\nthe last line"
    assert most < 2**20


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that every user may enter, unlike pytest's own: root may write everywhere, so a test has to be another."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        monkeypatch.setenv(FOLDER_VARIABLE, f"{folder}/devices")
        yield Path(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="folders that may not be written are a thing of POSIX")
def test_a_run_that_becomes_read_only_can_be_looked_at_and_its_training_says_why_it_ends(open_folder: Path) -> None:
    from tests.trainer.killing import in_child  # noqa: PLC0415 - POSIX only

    tiny_pipeline("sd1").save_pretrained(open_folder / "base")
    settings = quick_settings(open_folder / "base", write_pictures(open_folder / "pictures", [(40, 40)]))
    settings["train"] |= {"steps": 3000}
    store = Store(Home(open_folder))
    run = RunDir.create(store.home.runs, parse_config(settings))
    for path in open_folder.rglob("*"):
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)

    def train_as_nobody() -> None:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        try:
            run_training(run)
        except Exception as error:
            (open_folder / "told.txt").write_text(classify(error).sentence)
            raise

    def make_read_only_after_two_steps() -> bool:
        if len(read_metrics(run.metrics_file)[0]) >= 2:
            set_writable(run, False)
        return False

    assert in_child(train_as_nobody, kill_when=make_read_only_after_two_steps) == 1
    told = (open_folder / "told.txt").read_text()
    assert told.startswith("A file or folder may not be used: ")
    assert run.id in told
    (listed,) = store.list_runs()
    assert (listed.status.state, listed.status.step >= 2) == ("interrupted", True)
    set_writable(run, True)
    run.request("stop")
    assert in_child(train_as_nobody) == 0
    assert store.status(run).state == "stopped"


def set_writable(run: RunDir, is_writable: bool) -> None:
    for path in (run.path, *run.path.rglob("*")):
        if path.is_dir() or path.exists():
            path.chmod((0o777 if is_writable else 0o555) if path.is_dir() else (0o666 if is_writable else 0o444))
