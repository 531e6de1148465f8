"""Runs that go wrong with finite numbers are told of, and those that go well are not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dora_core.layers import LoraLayer
from tests.trainer.test_loop import built
from trainer.alarms import FAINT, Alarms, faintness
from trainer.config import RunConfig
from trainer.events import StepMetrics, Warned, read_events
from trainer.health import relative_change
from trainer.run_dir import RunDir
from trainer.session import run_training

ASSETS = Path(__file__).parents[2] / "assets"
Settings = Callable[..., RunConfig]


def row(loss: float | None, validation: float | None = None) -> StepMetrics:
    return StepMetrics(step=1, loss=loss, validation_loss=validation, seconds=1.0, learning_rates={"unet.up": 1e-3})


def test_a_validation_loss_that_rises_is_told_once() -> None:
    alarms = Alarms()
    said = [alarms.heed(row(0.3, validation)) for validation in (0.4, 0.2, 0.29, 0.31, 0.9)]
    assert [bool(sentence) for sentence in said] == [False, False, False, True, False]
    assert said[3].startswith("The validation loss has risen from 0.2 to 0.31")
    assert "0.001" in said[3]


def test_losses_that_rise_are_told_and_losses_that_only_scatter_are_not() -> None:
    chance = random.Random(3)
    alarms = Alarms()
    for _ in range(2000):
        assert not alarms.heed(row(chance.lognormvariate(-2, 1)))
    assert any(alarms.heed(row(chance.lognormvariate(0, 1))) for _ in range(200))


def test_steps_without_a_loss_do_not_count() -> None:
    alarms = Alarms()
    for _ in range(500):
        assert not alarms.heed(row(None))


def test_a_rate_that_is_too_high_is_told_while_it_trains(tmp_path: Path, tiny_settings: Settings) -> None:
    wild = {"optim__learning_rate": 0.1, "schedule__kind": "constant", "train__steps": 6}
    looked_at = {"train__validation_every_steps": 1, "train__validation_pictures": 1, "sample__steps": 1}
    at = {"model__base": "starter", "data__folder": str(ASSETS / "samples/subject"), "data__resolution_px": 64}
    run = RunDir.create(tmp_path / "runs", tiny_settings(**wild, **looked_at, **at))
    run_training(run)
    (told,) = (e.text for e in read_events(run.events_file)[0] if isinstance(e, Warned))
    assert "validation loss has risen" in told


@pytest.mark.parametrize(("rate", "is_faint"), [(1e-7, True), (1e-2, False)])
def test_an_adapter_that_does_nothing_is_told_at_the_end(
    tmp_path: Path, tiny_settings: Settings, rate: float, is_faint: bool
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(optim__learning_rate=rate, train__steps=2))
    run_training(run)
    told = [e.text for e in read_events(run.events_file)[0] if isinstance(e, Warned)]
    assert [text.startswith("The adapter changes the weights by") for text in told] == [True] * is_faint


def test_the_change_is_that_of_all_weights_together(tmp_path: Path, tiny_settings: Settings) -> None:
    adapters = built(tmp_path, tiny_settings())[1].adapters
    assert relative_change(adapters) == pytest.approx(0, abs=1e-6)
    layers = [layer for adapter in adapters.values() for layer in adapter.low_rank.values()]
    for layer in layers:
        torch.nn.init.normal_(layer.up)
    changes = torch.cat([(layer.merged_weight() - layer.original_weight).flatten() for layer in layers])
    weights = torch.cat([layer.original_weight.flatten() for layer in layers])
    assert relative_change(adapters) == pytest.approx(float(changes.norm() / weights.norm()), rel=1e-5)


def test_an_average_that_has_not_moved_is_faint_whatever_the_newest_weights_are(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    training = built(tmp_path, tiny_settings(optim__ema_decay=0.9))[1]
    for adapter in training.adapters.values():
        for layer in adapter.layers.values():
            assert isinstance(layer, LoraLayer)
            torch.nn.init.normal_(layer.up)
    assert relative_change(training.adapters) > 100 * FAINT
    assert training.relative_change() < FAINT  # the average is still the start, and what would be exported


def test_faint_is_less_than_the_rounding_of_float16() -> None:
    assert torch.finfo(torch.float16).eps / 2 == FAINT
    assert faintness(math.nextafter(FAINT, 0))
    assert not faintness(FAINT)
