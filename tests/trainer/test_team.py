"""Several processes of one run: the same adapter as one process makes, and one story on disk."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dora_core import algebra
from dora_core.layers import DoraLayer
from tests.trainer.asking import at_step, request_at
from tests.trainer.killing import in_children
from tests.trainer.test_loop import built
from trainer.build import build_training
from trainer.checkpoints import ADAPTER
from trainer.components import load_components
from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.events import Failed, last_values, read_events, read_metrics
from trainer.failures import ExplainedError
from trainer.faults import VARIABLE
from trainer.home import Home
from trainer.loop import take_step
from trainer.optim import named_parameters
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.team import Team, join_team, note_on_shares, require_shares
from trainer.training import Training

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="processes are forked"),
    pytest.mark.usefixtures("one_thread"),
]
Settings = Callable[..., RunConfig]
DEMANDING = {
    "adapter__dropout": 0.2,
    "adapter__text_encoder": True,
    "train__accumulation": 4,
    "train__batch_size": 2,
    "train__text_encoder_stop": 0.7,
    "data__prior": {"class_prompt": "a thing", "count": 2},
}
KINDS = ({"adapter__kind": "lora"}, {"adapter__norm_axis": "input"}, {"adapter__norm_axis": "output"})
STEPS = 3


@pytest.mark.parametrize("kind", KINDS, ids=["lora", "input axis", "output axis"])
def test_two_processes_make_the_adapter_of_one_with_right_norms_after_every_step(
    tmp_path: Path, tiny_settings: Settings, kind: dict[str, str]
) -> None:
    config = tiny_settings(**DEMANDING, **kind)
    _, alone = built(tmp_path, config)
    start = learned(alone)
    wanted = [(take_step(alone, step).loss, learned(alone)) for step in range(1, STEPS + 1)]

    def train(rank: int) -> None:
        training = built_by(join_team(), tmp_path, config)
        done = [(take_step(training, step).loss, learned(training)) for step in range(1, STEPS + 1)]
        check_norms(training)
        torch.save(done, tmp_path / f"{rank}.pt")

    assert in_children([partial(train, rank) for rank in range(2)]) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for (loss, by_one), (loss_of_first, of_first), (loss_of_second, of_second) in zip(
        wanted, first, second, strict=True
    ):
        assert loss_of_first == loss_of_second == pytest.approx(loss, rel=1e-5)
        for name, value in by_one.items():
            assert torch.equal(of_first[name], of_second[name]), name  # norms among them
            torch.testing.assert_close(of_first[name], value, rtol=0, atol=1e-5)
    last = wanted[-1][1]
    assert (
        max(float((last[name] - start[name]).abs().max()) for name in last) > 1e-2
    )  # a thousand times what may differ


def test_a_batch_without_a_finite_loss_makes_every_process_skip_the_step(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    config = tiny_settings(train__accumulation=2)
    built(tmp_path, config)

    def train(rank: int) -> None:
        training = built_by(join_team(), tmp_path, config)
        bad = training.datasets[0].order.batch(1)[0]  # of the second process
        views = list(training.datasets[0].views)
        views[bad] = (replace(views[bad][0], latents=views[bad][0].latents * torch.nan),)
        training = replace(training, datasets=(replace(training.datasets[0], views=tuple(views)),))
        before = learned(training)
        outcome = take_step(training, 1)
        assert "the loss is nan" in outcome.reason
        assert outcome.pictures == tuple(
            name for number in range(2) for name in training.datasets[0].batch(number).names
        )
        assert all(torch.equal(value, before[name]) for name, value in learned(training).items())

    assert in_children([partial(train, rank) for rank in range(2)]) == [0, 0]


def test_a_run_of_two_processes_is_stopped_and_goes_on_with_one(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_settings(**DEMANDING, train__steps=5, save__every_steps=0, sample__every_steps=2)
    alone, run = (RunDir.create(tmp_path / "runs", config) for _ in range(2))
    run_training(alone)
    request_at(monkeypatch, run, "stop", at_step(3))
    assert in_children([partial(run_training, run)] * 2) == [0, 0]
    told = [event.kind for event in read_events(run.events_file)[0]]
    assert told.count("started") == told.count("stopped") == 1
    assert told[-1] == "stopped"
    assert sorted(path.name for path in run.checkpoints_dir.iterdir()) == ["step-000002", "step-000003"]
    assert run_training(run) == "finished"
    rows = read_metrics(run.metrics_file)[0]
    assert [row.step for row in rows] == [1, 2, 3, 4, 5]
    losses = [[row.loss for row in last_values(read_metrics(one.metrics_file)[0]).values()] for one in (alone, run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    adapters = [load_file(one.checkpoints_dir / "step-000005" / ADAPTER) for one in (alone, run)]
    for name, value in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], value, rtol=0, atol=1e-5)


def test_the_end_of_another_process_is_told_and_nothing_waits_for_it(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__accumulation=2))
    monkeypatch.setenv(VARIABLE, "teammate.stepped:2")
    assert in_children([partial(run_training, run)] * 2) == [1, -signal.SIGKILL]
    failed = read_events(run.events_file)[0][-1]
    assert isinstance(failed, Failed)
    assert failed.sentence.startswith("Another process of this run ended")
    monkeypatch.delenv(VARIABLE)
    assert in_children([partial(run_training, run)] * 2) == [0, 0]
    assert read_events(run.events_file)[0][-1].kind == "finished"
    assert len(list(run.exports_dir.glob("*.safetensors"))) == 1


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__accumulation=2))
    deadline = time.monotonic() + 120

    def hang(training: Training, step: int) -> None:
        while read_events(run.events_file)[0][-1].kind != "failed" and time.monotonic() < deadline:
            time.sleep(0.1)

    monkeypatch.setattr("trainer.teammate.take_step", hang)
    monkeypatch.setattr("trainer.team.TIMEOUT", timedelta(seconds=20))  # long enough to load and to build
    assert in_children([partial(run_training, run)] * 2) == [1, 1]
    assert time.monotonic() < deadline
    failed = read_events(run.events_file)[0][-1]
    assert isinstance(failed, Failed)
    assert failed.category == "process lost"


def test_an_error_of_another_process_is_the_runs(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__accumulation=2))

    def out_of_memory(training: Training, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("trainer.teammate.take_step", out_of_memory)
    assert in_children([partial(run_training, run)] * 2) == [1, 1]
    failed = read_events(run.events_file)[0][-1]
    assert isinstance(failed, Failed)
    assert failed.sentence == "Process 2 of 2: The graphics card ran out of memory."
    assert "train.checkpointing" in failed.fix


def test_every_batch_is_one_process_and_too_few_of_them_are_refused() -> None:
    shares = [Team(rank, 3).share(8) for rank in range(3)]
    assert [list(share) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert "some wait for others" in note_on_shares(8, Team(0, 3))
    assert note_on_shares(6, Team(0, 3)) == ""
    with pytest.raises(ExplainedError, match=r"3 processes .* train\.accumulation is 2"):
        require_shares(2, Team(0, 3))


def built_by(team: Team, tmp_path: Path, config: RunConfig) -> Training:
    """With the caches that the first test's own process has filled."""
    compute = Compute(torch.device("cpu"), torch.float32)
    home = Home(tmp_path / "home")
    return build_training(config, load_components(config.model), compute, home, lambda name, done, total: None, team)


def learned(training: Training) -> dict[str, Tensor]:
    """Copies of all parameters, and of the norms of DoRA."""
    values = {name: parameter.detach().clone() for name, parameter in named_parameters(training.adapters).items()}
    return values | {f"{name}.norm": layer.norm.clone() for name, layer in dora_layers(training).items()}


def check_norms(training: Training) -> None:
    for layer in dora_layers(training).values():
        dense = layer.base.weight + algebra.low_rank_delta(layer.down.detach(), layer.up.detach(), layer.scale)
        torch.testing.assert_close(layer.norm, algebra.squared_norm(dense, layer.axis).sqrt())


def dora_layers(training: Training) -> dict[str, DoraLayer]:
    return {
        f"{part}.{name}": layer
        for part, adapter in training.adapters.items()
        for name, layer in adapter.layers.items()
        if isinstance(layer, DoraLayer)
    }
