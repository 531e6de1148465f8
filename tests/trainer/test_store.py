"""Runs are found, cloned, renamed, thrown away and brought back, and none that is alive is touched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import RunConfig
from trainer.config_errors import ConfigError
from trainer.config_io import parse_config
from trainer.events import EventLog, Finished, Started
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.store import NoSuchRunError, Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Home(tmp_path / "home"))


@pytest.fixture
def run(store: Store, tmp_path: Path) -> RunDir:
    """Older than what a test makes besides, by more than the steps that the clock of a file system takes."""
    made = store.create(config(tmp_path))
    os.utime(made.config_file, (1, 1))
    return made


def config(folder: Path) -> RunConfig:
    return parse_config({"name": "Red panda", "model": {"base": "base"}, "data": {"folder": str(folder)}})


def test_a_home_without_runs_has_none(store: Store) -> None:
    assert store.list_runs() == []
    assert store.empty_trash() == 0


def test_a_new_run_has_the_whole_config_and_is_named_after_it(store: Store, run: RunDir, tmp_path: Path) -> None:
    assert store.config(run) == config(tmp_path)
    assert "red-panda" in run.id
    assert [(listed.run, listed.status.state) for listed in store.list_runs()] == [(run, "new")]


def test_a_run_is_found_by_its_folder_its_id_and_a_part_that_no_other_has(store: Store, run: RunDir) -> None:
    other = RunDir.make(store.home.runs, "other", {"run.toml": b""})
    assert store.find(str(run.path)) == store.find(run.id) == store.find("panda") == run
    assert store.find("other") == store.find("last") == other
    assert store.find(run.id[: run.id.index("-red") + 2]) == run  # what its id alone begins with
    for name in ("", run.id[:10]):
        with pytest.raises(NoSuchRunError, match=f"fits 2 runs, the newest {other.id}, {run.id}"):
            store.find(name)


def test_a_name_that_is_no_run_s_is_told_with_the_nearest(store: Store, run: RunDir) -> None:
    other = RunDir.make(store.home.runs, "other", {"run.toml": b""})
    for name, nearest in (("red-pnada", run.id), (f"{other.id[:-1]}x", other.id), ("zzz", f"{other.id}, {run.id}")):
        with pytest.raises(NoSuchRunError, match=re.escape(f"There is no run {name!r}")) as refused:
            store.find(name)
        assert f"Nearest: {nearest}" in refused.value.sentence
    with pytest.raises(NoSuchRunError, match=r"There is no run 'last': .* holds none"):
        Store(Home(store.home.path / "empty")).find("last")
    with pytest.raises(NoSuchRunError, match="nowhere is no run: it is not there"):
        store.find(str(store.home.path / "nowhere"))
    with pytest.raises(NoSuchRunError, match=r"runs is no run: it has no run\.toml"):
        store.find(str(store.home.runs))


def test_the_last_of_the_runs_of_a_minute_is_the_one_made_last(store: Store) -> None:
    made = [RunDir.make(store.home.runs, name, {"run.toml": b""}) for name in ("m", "z", "a")]
    for seconds, one in enumerate(made):
        os.utime(one.config_file, (seconds, seconds))
    same_minute = [one for one in made if one.id[:15] == made[-1].id[:15]]
    assert store.find("last") == made[-1]
    assert [listed.run for listed in store.list_runs()][: len(same_minute)] == same_minute[::-1]


def test_a_thrown_away_run_is_found_likewise(store: Store, run: RunDir) -> None:
    store.delete(run)
    with pytest.raises(NoSuchRunError, match=f"Nearest: {run.id}"):
        store.restore("red-pnada")
    assert store.restore("panda") == run


def test_a_run_that_is_copied_by_hand_is_a_run(store: Store, run: RunDir) -> None:
    subprocess.run(["cp", "-r", run.path, run.path.with_name("my copy")], check=True)
    assert [listed.run.id for listed in store.list_runs()] == ["my copy", run.id]


def test_a_clone_has_the_settings_but_not_the_past(store: Store, run: RunDir) -> None:
    EventLog(run.events_file).append(Started(steps=1, pid=1, create_time=1))
    cloned = store.clone(run, "Blue panda")
    assert store.config(cloned) == store.config(run).model_copy(update={"name": "Blue panda"})
    assert store.status(cloned).state == "new"
    changed = store.clone(run, "Blue panda", ["adapter.rank=7"])
    assert store.config(changed).adapter.rank == 7
    with pytest.raises(ConfigError, match=r"adapter\.rank"):
        store.clone(run, "Blue panda", ["adapter.rnak=7"])


def test_a_new_name_changes_nothing_else(store: Store, run: RunDir) -> None:
    before = store.config(run)
    store.rename(run, 'Ünï "code" = 1\n[x]')
    assert store.config(run) == before.model_copy(update={"name": 'Ünï "code" = 1\n[x]'})
    assert run.exists()


def test_a_deleted_run_is_in_the_trash_until_that_is_emptied(store: Store, run: RunDir) -> None:
    store.delete(run)
    assert not run.exists()
    assert store.list_runs() == []
    assert store.restore(run.id) == run
    assert run.exists()
    store.delete(run)
    assert store.empty_trash() == 1
    assert not store.trash.exists() or list(store.trash.iterdir()) == []


def test_what_runs_or_waits_cannot_be_deleted(store: Store, run: RunDir) -> None:
    with run.hold(), pytest.raises(ExplainedError, match="preparing"):
        store.delete(run)
    job = store.requeue(run)
    with pytest.raises(ExplainedError, match="queued"):
        store.delete(run)
    store.queue.cancel(job)
    store.delete(run)


def test_a_finished_run_can_be_queued_again(store: Store, run: RunDir) -> None:
    EventLog(run.events_file).append(Finished(step=3))
    assert store.status(run).state == "finished"
    store.requeue(run)
    assert store.status(run).state == "queued"


@pytest.fixture
def home_option(store: Store) -> list[str]:
    return ["--home", str(store.home.path)]


def cli(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "trainer.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_command_line_does_it_all(store: Store, run: RunDir, home_option: list[str]) -> None:
    assert "red-panda" in cli("runs", "list", *home_option)
    assert "Not started" in cli("runs", "show", "panda", *home_option)
    cli("runs", "rename", "panda", "A name", *home_option)
    assert store.config(run).name == "A name"
    cloned = RunDir(Path(cli("runs", "clone", run.id, "twice", *home_option).strip()))
    assert store.config(cloned).name == "twice"
    assert "Moved to" in cli("runs", "delete", "twice", *home_option)
    assert str(cloned.path) in cli("runs", "restore", cloned.id, *home_option)
    assert "is not running" in cli("runs", "stop", "panda", *home_option)


def test_the_command_line_asks_a_living_run_only(run: RunDir, home_option: list[str]) -> None:
    with run.hold():
        for request in ("pause", "save", "sample"):
            cli("runs", request, "panda", *home_option)
        assert [run.requested(what) for what in ("pause", "save", "sample", "stop")] == [True, True, True, False]
        cli("runs", "unpause", "panda", *home_option)
        assert not run.requested("pause")
        assert "saves and stops" in cli("runs", "stop", "panda", *home_option)
        assert run.requested("stop")
    failed = cli("runs", "pause", "panda", *home_option, code=1)
    assert "is not running" in failed
    assert "Traceback" not in failed


def test_the_command_line_shows_the_queue_and_takes_a_job_off_it(
    store: Store, run: RunDir, home_option: list[str]
) -> None:
    job = store.requeue(run)
    listed = cli("queue", "list", *home_option)
    assert "waiting" in listed
    assert "dora-studio queue start" in listed
    cli("queue", "cancel", job.id[-6:], *home_option)
    assert "done" in cli("queue", "list", *home_option)
    assert "does not wait" in cli("queue", "cancel", job.id[-6:], *home_option, code=1)
