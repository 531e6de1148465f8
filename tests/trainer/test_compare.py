"""Pictures of adapter files: the base's own where nothing is adapted, the file's where something is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.compare import exported
from trainer.components import Components, load_components
from trainer.config import RunConfig
from trainer.config_sections import ModelConfig
from trainer.demo import run_demo
from trainer.from_file import Column, draw_column
from trainer.home import Home
from trainer.likeness import HeldOut, nearer_to_solid
from trainer.run_dir import RunDir
from trainer.sampling import Shot, draw_picture
from trainer.session import run_training

SHOT = Shot("a sks thing", "", 3, 2, 1.5, 32, 32)


@pytest.fixture(params=["lora", "dora"])
def trained(tmp_path: Path, tiny_settings: Callable[..., RunConfig], request: pytest.FixtureRequest) -> RunDir:
    settings = tiny_settings(train__steps=2, adapter__kind=request.param)
    run = RunDir.create(tmp_path / "home" / "runs", settings)
    run_training(run)
    return run


def adapter_file(run: RunDir) -> Path:
    return run.path / exported(run).file


def base_of(tiny_base: Callable[[str], Path]) -> Components:
    return load_components(ModelConfig(base=str(tiny_base("sd1"))))


def test_only_an_adapter_at_a_strength_changes_the_pictures(trained: RunDir, tiny_base: Callable[[str], Path]) -> None:
    components, file = base_of(tiny_base), adapter_file(trained)
    own = draw_picture(components.pipeline, SHOT).tobytes()
    drawn = {
        column.title: draw_column(components, column, [SHOT])[0].tobytes()
        for column in (Column("on", file), Column("off", file, 0.0), Column("base"))
    }
    assert drawn["base"] == drawn["off"] == own
    assert drawn["on"] != own


def test_pictures_come_from_the_file_and_not_from_the_checkpoint(
    trained: RunDir, tiny_base: Callable[[str], Path]
) -> None:
    components, file = base_of(tiny_base), adapter_file(trained)
    before = draw_column(components, Column("", file), [SHOT])[0].tobytes()
    for checkpoint in trained.checkpoints_dir.rglob("*.safetensors"):
        checkpoint.write_bytes(b"broken")
    assert draw_column(components, Column("", file), [SHOT])[0].tobytes() == before


def test_nearer_counts_pictures_by_the_style_that_they_resemble() -> None:
    truth = HeldOut("a thing", flat=Image.new("RGB", (8, 8), (0, 0, 0)), solid=Image.new("RGB", (8, 8), (200, 0, 0)))
    drawn = [Image.new("RGB", (8, 8), (red, 0, 0)) for red in (99, 101, 255, 0)]

    def red_of(picture: Image.Image) -> torch.Tensor:
        return torch.tensor([float(picture.getpixel((0, 0))[0])])  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]

    assert nearer_to_solid(drawn, [truth] * 4, red_of) == 0.5


def test_the_demo_exports_both_twins_and_scores_every_column(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    settings = [
        f"model.base={tiny_base('sd1')}",
        "data.resolution_px=32",
        "data.bucket_step_px=16",
        "adapter.rank=2",
        "train.steps=1",
        "sample.steps=1",
    ]
    result = run_demo(Home(tmp_path / "home"), settings)
    assert [run.path / export.file for run, export in zip(result.runs, result.exports, strict=True)] == [
        adapter_file(run) for run in result.runs
    ]
    assert [score.title for score in result.scores] == ["base", "LoRA", "DoRA"]
    assert all(0 <= share <= 1 for score in result.scores for share in (score.coarse, score.latents))
    with Image.open(result.grid) as grid:
        assert grid.height > 12 * 96
