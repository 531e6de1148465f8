"""Stopped, killed, resumed: the adapter is the same to the last byte as that of a run which nothing disturbed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.asking import at_step, request_at
from tests.trainer.conftest import write_pictures
from tests.trainer.killing import final_adapter, train_in_child
from trainer.config import RunConfig
from trainer.config_io import parse_config
from trainer.events import Exported, Failed, Finished, Stopped, Warned, last_values, read_events, read_metrics
from trainer.failures import ResumeRefusedError
from trainer.faults import POINTS
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.twins import create_runs

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="a child is forked to be killed"),
    pytest.mark.usefixtures("one_thread"),
]
Settings = Callable[..., RunConfig]
# All that could break exactness at once: dropout, accumulation, a text encoder that stops, class pictures, both caches,
# noise of every kind.
DEMANDING = {
    "adapter__dropout": 0.2,
    "adapter__text_encoder": True,
    "train__accumulation": 2,
    "train__batch_size": 2,
    "train__text_encoder_stop": 0.7,
    "data__prior": {"class_prompt": "a thing", "count": 2},
    "sample__every_steps": 4,
    "loss": {"weighting": "soft-min-snr", "kind": "huber", "delta_schedule": "snr"},
    "noise": {"timesteps": "logit-normal", "offset": 0.1, "pyramid": 0.3, "perturbation": 0.1},
}
# All that chance may do to pictures and captions, and what is told apart by them.
SETS: dict[str, Any] = {
    "flip": True,
    "crop_jitter": True,
    "trigger": "zxc",
    "wildcards": True,
    "shuffle_tags": True,
    "tag_dropout": 0.2,
    "keep_tags": 1,
    "caption_dropout": 0.1,
    "mask": {"source": "alpha"},
}


def test_stopped_or_killed_and_resumed_is_the_same_to_the_byte(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_settings(**DEMANDING)
    straight, stopped, killed = (RunDir.create(tmp_path / "runs", config) for _ in range(3))
    assert run_training(straight) == "finished"

    request_at(monkeypatch, stopped, "stop", at_step(1))
    assert run_training(stopped) == "stopped"
    ended = read_events(stopped.events_file)[0][-1]
    assert isinstance(ended, Stopped)
    assert ended.step == 1
    assert run_training(stopped) == "finished"

    assert train_in_child(killed, "metrics.appended:4") == -signal.SIGKILL  # step 4 done, its checkpoint not begun
    assert [p.name for p in sorted(killed.checkpoints_dir.iterdir())][-1] == "step-000003"
    assert run_training(killed) == "finished"

    wanted = final_adapter(straight, 6)
    assert final_adapter(stopped, 6) == wanted
    assert final_adapter(killed, 6) == wanted
    losses = [losses_of(run) for run in (straight, stopped, killed)]
    assert losses[0] == losses[1] == losses[2]
    assert len(losses[0]) == 6
    assert len({(run.exports_dir / "tiny-dora.safetensors").read_bytes() for run in (straight, stopped, killed)}) == 1


def test_what_chance_does_to_pictures_and_captions_is_the_same_when_resumed_and_for_twins(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write_pictures(tmp_path / "kept", [(40, 60), (48, 48)])
    values = tiny_settings(train__batch_size=2, train__checkpointing=True, train__steps=4).model_dump(
        mode="json", exclude_none=True
    )
    (Path(values["data"]["folder"]) / "00.txt").write_text("{one|two}, three, four, five, {six|seven}, eight")
    values["data"] |= {**SETS, "more": [{"folder": str(kept), "role": "prior-prediction", **SETS}]}
    config = parse_config(values)
    straight, stopped = (RunDir.create(tmp_path / "runs", config) for _ in range(2))
    lora, _ = create_runs(parse_config({**values, "train": {**values["train"], "twin": True}}), tmp_path / "runs")
    assert run_training(straight) == "finished"
    request_at(monkeypatch, stopped, "stop", at_step(2))
    assert run_training(stopped) == "stopped"
    assert run_training(stopped) == "finished"
    assert final_adapter(stopped, 4) == final_adapter(straight, 4)
    assert losses_of(stopped) == losses_of(straight)
    run_training(lora)
    assert losses_of(lora)[1] == losses_of(straight)[1]  # before it, both are the base model


def test_a_full_fine_tune_that_was_stopped_is_the_same_to_the_byte(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_settings(adapter__kind="full", train__steps=3)
    straight, stopped = (RunDir.create(tmp_path / "runs", config) for _ in range(2))
    run_training(straight)
    request_at(monkeypatch, stopped, "stop", at_step(1))
    assert run_training(stopped) == "stopped"
    assert run_training(stopped) == "finished"
    assert final_adapter(stopped, 3) == final_adapter(straight, 3)
    file = "tiny-full-full-difference.safetensors"
    assert (stopped.exports_dir / file).read_bytes() == (straight.exports_dir / file).read_bytes()


OPTIMIZED: list[dict[str, object]] = [  # what else a checkpoint has to hold
    {"optim": {"kind": "prodigy"}, "adapter__text_encoder": True, "model__clip_skip": 2},
    {"optim": {"kind": "adamw-schedule-free", "learning_rate": 1e-2}, "schedule__kind": "constant"},
    {"optim": {"learning_rate": 1e-2, "ema_decay": 0.9, "up_factor": 4.0}, "schedule__cycles": 2},
]


@pytest.mark.parametrize("settings", OPTIMIZED, ids=["prodigy", "schedule-free", "average"])
def test_whatever_is_optimised_by_a_stop_and_other_saves_change_no_byte(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    """The undisturbed run saves at its end alone: looking at an average must leave no trace in what is trained."""
    straight = RunDir.create(tmp_path / "runs", tiny_settings(**settings, save__every_steps=0))
    stopped = RunDir.create(tmp_path / "runs", tiny_settings(**settings, train__validation_every_steps=1))
    run_training(straight)
    request_at(monkeypatch, stopped, "stop", at_step(3))
    assert run_training(stopped) == "stopped"
    assert run_training(stopped) == "finished"
    assert final_adapter(stopped, 6) == final_adapter(straight, 6)
    assert losses_of(stopped) == losses_of(straight)


def test_on_a_quantised_base_with_all_that_saves_memory_too(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    savers = {"train__checkpointing": True, "train__checkpointed": "transformers", "train__channels_last": True}
    config = tiny_settings(**savers, model__bits="int8", adapter__targets="attention-mlp-conv", train__steps=3)
    straight, stopped = (RunDir.create(tmp_path / "runs", config) for _ in range(2))
    assert run_training(straight) == "finished"
    request_at(monkeypatch, stopped, "stop", at_step(1))
    assert run_training(stopped) == "stopped"
    assert run_training(stopped) == "finished"
    assert final_adapter(stopped, 3) == final_adapter(straight, 3)


@pytest.mark.parametrize("point", ["checkpoint.adapter:2", "samples.drawn:3"])
def test_a_crash_at_a_write_costs_nothing_but_time(tmp_path: Path, tiny_settings: Settings, point: str) -> None:
    check_crash(tmp_path, tiny_settings, point)


@pytest.mark.slow
@pytest.mark.parametrize("point", [f"{name}:{count}" for name in POINTS for count in (1, 2, 3)])
def test_a_crash_at_any_write_costs_nothing_but_time(tmp_path: Path, tiny_settings: Settings, point: str) -> None:
    check_crash(tmp_path, tiny_settings, point)


def check_crash(tmp_path: Path, tiny_settings: Settings, point: str) -> None:
    config = tiny_settings(
        train__steps=3, sample__every_steps=2, save__keep_last=2, data__prior={"class_prompt": "a thing", "count": 2}
    )
    straight, crashed = RunDir.create(tmp_path / "a" / "runs", config), RunDir.create(tmp_path / "b" / "runs", config)
    run_training(straight)
    code = train_in_child(crashed, point)
    assert code in (0, -signal.SIGKILL)  # 0: the point is not passed that often
    run_training(crashed)
    assert final_adapter(crashed, 3) == final_adapter(straight, 3)
    assert sorted(p.name for p in crashed.checkpoints_dir.iterdir()) == ["step-000002", "step-000003"]
    assert read_events(crashed.events_file)[0][-1].kind == "finished"
    assert sorted(p.name for p in crashed.samples_dir.iterdir()) == [f"step-{step:06d}" for step in (0, 2, 3)]
    for step in (0, 2, 3):
        name = f"step-{step:06d}/00.png"
        assert (crashed.samples_dir / name).read_bytes() == (straight.samples_dir / name).read_bytes()


def test_other_pictures_are_refused_in_an_event_too_but_not_another_place(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_settings()
    run = RunDir.create(tmp_path / "runs", config)
    request_at(monkeypatch, run, "stop", at_step(1))
    run_training(run)
    moved = config.data.folder.rename(tmp_path / "moved")
    write_settings(run, config.model_copy(update={"data": config.data.model_copy(update={"folder": moved})}))
    request_at(monkeypatch, run, "stop", at_step(2))
    assert run_training(run) == "stopped"
    (moved / "00.txt").write_text("now called something else")
    with pytest.raises(ResumeRefusedError, match=r"data\.folder: its checkpoint has pictures and captions"):
        run_training(run)
    failed = read_events(run.events_file)[0][-1]
    assert isinstance(failed, Failed)
    assert failed.category == "resume refused"


def test_another_number_of_threads_is_a_warning_on_a_processor(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=3))
    request_at(monkeypatch, run, "stop", at_step(1))
    run_training(run)
    assert json.loads((run.checkpoints_dir / "step-000001" / "step.json").read_text())["threads"] == 1
    request_at(monkeypatch, run, "stop", at_step(2))
    run_training(run)
    assert not any(isinstance(event, Warned) for event in read_events(run.events_file)[0])
    torch.set_num_threads(2)
    run_training(run)
    (warned,) = [event.text for event in read_events(run.events_file)[0] if isinstance(event, Warned)]
    assert "made with 1 threads, this process has 2" in warned
    assert json.loads(run.environment_file.read_text())["threads"] == 2


def test_events_tell_the_story_of_a_run(tmp_path: Path, tiny_settings: Settings) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2, train__validation_every_steps=1))
    run_training(run)
    events = read_events(run.events_file)[0]
    assert events[0].kind == "started"
    assert isinstance(events[-1], Finished)
    exported = next(event for event in events if isinstance(event, Exported))
    assert (run.path / exported.file).is_file()
    assert exported.headline.startswith("ComfyUI renders")
    assert [event.step for event in events if event.kind == "saved"] == [1, 2]
    assert [event.step for event in events if event.kind == "sampled"] == [0, 2]
    assert not any(isinstance(event, Stopped | Failed) for event in events)
    rows = read_metrics(run.metrics_file)[0]
    assert all(row.validation_loss and row.update_norms and row.magnitude_drift is not None for row in rows)
    assert json.loads(run.environment_file.read_text())["torch"]
    shot = json.loads((run.samples_dir / "step-000002" / "samples.json").read_text())[0]
    assert shot["prompt"] == "a sks thing"
    assert os.listdir(run.control_dir) == []


def losses_of(run: RunDir) -> dict[int, float | None]:
    return {step: row.loss for step, row in last_values(read_metrics(run.metrics_file)[0]).items()}


def write_settings(run: RunDir, config: RunConfig) -> None:
    other = RunDir.create(run.path.parent.parent / "other", config)
    other.config_file.replace(run.config_file)
