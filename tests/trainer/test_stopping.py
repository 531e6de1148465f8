"""A stop in every phase: the process ends where nothing is lost, says so, and the next one goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.asking import at_phase, at_step, request_at
from trainer.config import RunConfig
from trainer.events import Exported, Paused, Phase, PhaseName, Sampled, Saved, Started, read_events
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.status import PHASES, Outside, fold, read_status

Settings = Callable[..., RunConfig]
STARTED = Started(steps=2, pid=1, create_time=1)
WITH_CLASS_PICTURES = {"class_prompt": "a thing", "count": 3}


@pytest.mark.parametrize(
    ("name", "done", "saved_step", "last"),
    [
        ("loading", 0, 0, "loading"),
        ("checking", 0, 0, "checking"),
        ("class pictures", 1, 0, "class pictures"),
        ("caching", 2, 0, "caching"),
        ("training", 0, 0, "training"),  # before the samples of step 0
        ("sampling", 1, 0, "sampling"),  # of three pictures one is drawn, one is begun
        ("saving", 0, 1, "training"),
        ("exporting", 1, 2, "exporting"),  # one file of three is there, one is begun
    ],
)
def test_a_stop_in_any_phase_ends_the_run_there_and_it_can_be_resumed(
    name: str,
    done: int,
    saved_step: int,
    last: str,
    tmp_path: Path,
    tiny_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_settings(
        train__steps=2,
        data__prior=WITH_CLASS_PICTURES,
        adapter__norm_axis="output",
        sample__prompts=["a", "b", "c"],
        sample__every_steps=2,
    )
    run = RunDir.create(tmp_path / "runs", config)
    request_at(monkeypatch, run, "stop", at_phase(name, done))
    assert run_training(run) == "stopped"
    status = read_status(run)
    assert (status.state, status.step, status.fix) == ("stopped", saved_step, "")
    message = "Stopped before the first step was saved", *(f"Stopped and saved at step {step}" for step in (1, 2))
    assert status.message == message[saved_step] + (": resumed, it writes its files" if saved_step == 2 else "")
    events = read_events(run.events_file)[0]
    assert not any(event.kind in ("failed", "warned") for event in events)
    assert [event.name for event in events if isinstance(event, Phase)][-1] == last
    assert not run.requested("stop")
    assert not list(run.samples_dir.glob(".*"))

    assert run_training(run) == "finished"
    files = [event.file for event in read_events(run.events_file)[0] if isinstance(event, Exported)][-3:]
    assert len(files) == 3
    assert all((run.path / file).is_file() for file in files)


@pytest.mark.parametrize("name", PHASES)
def test_a_stop_that_is_not_answered_yet_says_what_it_waits_for(name: PhaseName) -> None:
    begun = Phase(name=name)
    status = fold([STARTED, begun], [], Outside(is_locked=True, stop_requested=True))
    assert (status.state, status.message) == ("stopping", f"Stopping after {PHASES[begun.name][2]}")


def test_while_it_is_paused_it_saves_and_samples_if_asked_and_can_be_stopped(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=3, save__every_steps=0))
    request_at(monkeypatch, run, "pause", at_step(1))
    request_at(monkeypatch, run, "sample", lambda line: isinstance(line, Paused))
    request_at(monkeypatch, run, "stop", lambda line: isinstance(line, Sampled) and line.step == 1)
    assert run_training(run) == "stopped"
    events = read_events(run.events_file)[0]
    told = ["paused", "saved", "sampled", "paused", "resumed", "stopping", "saved", "stopped"]
    assert [event.kind for event in events if event.kind != "phase"][-len(told) :] == told
    assert [event.step for event in events if isinstance(event, Saved)] == [1, 1]


def test_a_pause_that_is_taken_back_goes_on(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=3))
    request_at(monkeypatch, run, "pause", at_step(1))
    request_at(monkeypatch, run, "save", lambda line: isinstance(line, Paused))
    monkeypatch.setattr("trainer.watch.time.sleep", lambda seconds: run.clear("pause"))
    assert run_training(run) == "finished"
