"""Whoever reads a run while it is written reads whole things only. A larger storm: reader_storm.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.components import load_components
from trainer.config import RunConfig
from trainer.run_dir import RunDir
from trainer.sampling import draw_samples
from trainer.shot import Shot

if sys.platform == "win32":
    pytest.skip("a child is forked to train", allow_module_level=True)

from tests.trainer.killing import in_child, train_in_child
from tests.trainer.reader_storm import Reader


def test_a_run_that_is_read_all_the_time_is_never_read_half(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    config = tiny_settings(train__steps=10, sample__every_steps=2, save__keep_last=2)
    reader = Reader(RunDir.create(tmp_path / "runs", config))
    assert train_in_child(reader.run, kill_when=lambda: bool(reader.read_all())) == 0
    reader.read_all()
    reader.check()
    assert len(reader.rows) == 10
    assert reader.read["status"] > 20


def test_samples_that_are_drawn_again_are_the_older_ones_or_the_newer_ones_but_never_half(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings())
    components = load_components(tiny_settings().model)
    reader, folder = Reader(run), run.samples_dir / "asked"

    def draw_again_and_again() -> None:
        for seed in range(15):
            shots = [Shot("a thing", "", seed, 1, 1.0, 32, 32) for _ in range(1 + seed % 2)]
            draw_samples(components, shots, folder)

    assert in_child(draw_again_and_again, kill_when=lambda: bool(reader.read_all())) == 0
    assert reader.torn == []
    assert reader.read["samples"] > 20
