"""Jobs on a run that has finished, is training at this moment, has not begun, or was deleted: each has an outcome."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydantic import JsonValue

from trainer import home, job
from trainer.config import RunConfig
from trainer.events import Exported, Sampled, read_events
from trainer.home import Home
from trainer.queue import Kind, Outcome, Queue
from trainer.run_dir import RunDir
from trainer.session import run_training

PARAMETERS: dict[Kind, dict[str, JsonValue]] = {
    "sample": {"settings": ["sample.prompts=another thing"]},
    "export": {"target": "diff"},
    "compare": {"prompts": ["a thing"], "steps": [1], "size_px": [32, 32]},
}
MADE = {"sample": "samples/asked-*/00.png", "export": "exports/*diff*.safetensors", "compare": "grids/*/manifest.json"}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv(home.VARIABLE, str(tmp_path))
    return Queue(Home(tmp_path))


@pytest.fixture
def new(queue: Queue, tiny_settings: Callable[..., RunConfig]) -> RunDir:
    return RunDir.create(queue.home.runs, tiny_settings(train__steps=2))


@pytest.fixture
def finished(new: RunDir) -> RunDir:
    run_training(new)
    return new


def do(queue: Queue, kind: Kind, run: RunDir) -> Outcome:
    """The job by the function that its process calls."""
    submitted = queue.submit(kind, [run.path], PARAMETERS.get(kind, {}))
    code = job.run(queue, submitted)
    outcome = queue.read_outcome(submitted)
    assert outcome is not None
    assert outcome.code == code
    return outcome


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("is_training", [False, True])
def test_a_run_that_has_finished_or_trains_again_gives_what_it_is_asked_for(
    queue: Queue, finished: RunDir, kind: Kind, is_training: bool
) -> None:
    """A checkpoint is whole or not there, so nobody has to wait for the process that holds the run."""
    with finished.hold() if is_training else nullcontext():
        assert do(queue, kind, finished).sentence == ""
        assert finished.is_locked() == is_training
    assert len(list(finished.path.glob(MADE[kind]))) == 1
    if kind != "compare":
        last = read_events(finished.events_file)[0][-1]
        assert isinstance(last, Sampled if kind == "sample" else Exported)


@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_run_without_a_checkpoint_says_so(queue: Queue, new: RunDir, kind: Kind) -> None:
    outcome = do(queue, kind, new)
    assert outcome.code == 1
    assert "checkpoint" in outcome.sentence or "export" in outcome.sentence
    assert outcome.fix
    assert list(new.path.glob(MADE[kind])) == []


@pytest.mark.parametrize("kind", ["train", *PARAMETERS])
def test_a_run_that_was_deleted_is_told_as_gone_and_not_made_again(queue: Queue, new: RunDir, kind: Kind) -> None:
    shutil.rmtree(new.path)
    outcome = do(queue, kind, new)
    assert (outcome.code, outcome.sentence) == (
        1,
        f"The run directory {new.path} is gone: it was deleted or moved.",
    )
    assert "runs restore" in outcome.fix
    assert not new.path.exists()


def test_a_run_that_trains_is_not_trained_twice(queue: Queue, new: RunDir) -> None:
    with new.hold():
        outcome = do(queue, "train", new)
        assert outcome.code == 1
        assert outcome.sentence.startswith("In use: ")
    assert read_events(new.events_file)[0] == []
