"""The demo: both twins exported, every column scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from trainer.demo import CELL_PX, run_demo
from trainer.home import Home
from trainer.likeness import HeldOut, nearer_to_solid


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
    assert [twin.run.id.split("-")[-2] for twin in result.twins] == ["lora", "dora"]
    assert all(twin.file.is_file() and twin.figures.seconds_per_step for twin in result.twins)
    assert [score.title for score in result.scores] == ["base", "LoRA", "DoRA"]
    assert all(0 <= share <= 1 for score in result.scores for share in (score.coarse, score.latents))
    with Image.open(result.grid) as grid:
        assert grid.width > 12 * CELL_PX
