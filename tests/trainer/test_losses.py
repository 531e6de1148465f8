"""Losses by band and smoothed: numbers worked by hand, from the rows to the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from trainer.config import RunConfig
from trainer.events import MetricsLog, StepMetrics, read_metrics
from trainer.loss_table import print_losses
from trainer.losses import BANDS, band_means, band_sums, loss_lines, smoothed
from trainer.run_dir import RunDir
from trainer.session import run_training

Settings = Callable[..., RunConfig]


def test_errors_go_to_the_quarter_of_the_schedule_that_their_timestep_is_in() -> None:
    errors, timesteps = [1.0, 3.0, 5.0, 8.0, 0.5], [0, 249, 250, 999, 500]
    assert band_means(band_sums(errors, timesteps, 1000)) == (2.0, 5.0, 0.5, 8.0)
    assert band_means(band_sums([1.0, 4.0], [749, 700], 1000)) == (None, None, 2.5, None)
    assert band_means(band_sums([1.0, 4.0], [0, 6], 7)) == (1.0, None, None, 4.0)


def test_bands_of_several_processes_are_those_of_one() -> None:
    errors, timesteps = [1.0, 3.0, 5.0, 8.0, 0.5], [0, 249, 250, 999, 500]
    parts = [band_sums(errors[:2], timesteps[:2], 1000), band_sums(errors[2:], timesteps[2:], 1000)]
    together = [sum(pair) for pair in zip(*parts, strict=True)]
    assert band_means(together) == band_means(band_sums(errors, timesteps, 1000))


def test_smoothing_is_the_numbers_worked_by_hand_without_the_pull_to_its_start() -> None:
    assert smoothed([3.0]) == pytest.approx(3.0)
    assert smoothed([7.0] * 9) == pytest.approx(7.0)
    # keep 1/2: (1/4 * 2 + 1/2 * 5) / (1/4 + 1/2); what is missing counts for nothing
    assert smoothed([2.0, 5.0], keep=0.5) == pytest.approx(4.0)
    assert smoothed([None, 2.0, None, 5.0, None], keep=0.5) == pytest.approx(4.0)
    assert smoothed([None, None]) is None
    assert smoothed([]) is None


def test_lines_are_all_timesteps_and_each_band_with_the_first_and_last_validation() -> None:
    rows = [
        row(1, 2.0, (None, 1.0, None, None)),
        row(2, 4.0, (None, None, 3.0, None), 0.5, (0.75, 0.5, 0.25, 0.5)),
        row(3, 6.0, (9.0, None, None, None)),
        row(4, None, (None, None, None, None), 0.4, (0.7, 0.4, 0.2, 0.3)),
    ]
    everything, *bands = loss_lines(rows)
    assert (everything.title, everything.first, everything.last) == ("all", 0.5, 0.4)
    assert everything.smoothed == smoothed([2.0, 4.0, 6.0])
    assert [line.title for line in bands] == list(BANDS)
    assert [line.smoothed for line in bands] == [pytest.approx(9.0), pytest.approx(1.0), pytest.approx(3.0), None]
    assert [(line.first, line.last) for line in bands] == [(0.75, 0.7), (0.5, 0.4), (0.25, 0.2), (0.5, 0.3)]


def test_rows_from_before_there_were_bands_are_read_and_told_without_them(tmp_path: Path) -> None:
    old = json.loads(row(1, 0.25, ()).model_dump_json())
    for name in ("band_losses", "validation_band_losses"):
        del old[name]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    rows = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert [(line.title, line.smoothed) for line in loss_lines(rows)] == [("all", pytest.approx(0.25))]


def test_a_band_whose_loss_is_no_number_is_null_in_the_file(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "m").append(row(1, 1.0, (float("nan"), None, 2.0, float("inf"))))
    assert read_metrics(tmp_path / "m")[0][0].band_losses == (None, None, 2.0, None)


def test_a_run_tells_its_losses_by_band_and_validates_every_band(tmp_path: Path, tiny_settings: Settings) -> None:
    config = tiny_settings("sd2", train__steps=2, train__batch_size=3, train__validation_every_steps=1)
    run = RunDir.create(tmp_path / "runs", config)
    run_training(run)
    rows = read_metrics(run.metrics_file)[0]
    for one in rows:
        assert one.validation_loss is not None
        bands = [value for value in one.validation_band_losses if value is not None]
        assert len(bands) == len(BANDS)
        assert sum(bands) / len(bands) == pytest.approx(one.validation_loss, rel=1e-5)
        assert len(one.band_losses) == len(BANDS)
        assert any(value is not None for value in one.band_losses)
    console = Console(width=100)
    with console.capture() as captured:
        print_losses(run, console)
    lines = captured.get().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["all", "0-25", "25-50", "50-75", "75-100"]
    assert lines[1].split()[-2:] == [f"{one.validation_loss:.4f}" for one in rows]


def row(
    step: int,
    loss: float | None,
    bands: tuple[float | None, ...],
    validation: float | None = None,
    validation_bands: tuple[float | None, ...] = (),
) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=loss,
        seconds=0.1,
        band_losses=bands,
        validation_loss=validation,
        validation_band_losses=validation_bands,
    )
