"""Pictures of adapter files: the base's own where nothing is adapted, the file's where something is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.compare import exported, run_job
from trainer.components import Components, load_components
from trainer.config import ModelConfig, RunConfig
from trainer.demo import run_demo
from trainer.from_file import Column, draw_column, merged
from trainer.grids import labelled_grid
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


def test_half_the_strength_is_half_way_to_the_adapted_weights(
    trained: RunDir, tiny_base: Callable[[str], Path]
) -> None:
    components, file = base_of(tiny_base), adapter_file(trained)
    base, half, full = ({} for _ in range(3))
    for strength, weights in ((0.0, base), (0.5, half), (1.0, full)):
        with merged(components, file, strength):
            weights |= {name: value.clone() for name, value in components.unet.state_dict().items()}
    assert any(not torch.equal(base[name], full[name]) for name in base)
    for name in base:
        torch.testing.assert_close(half[name], (base[name] + full[name]) / 2, rtol=1e-5, atol=1e-6)


def test_nearer_counts_pictures_by_the_style_that_they_resemble() -> None:
    truth = HeldOut("a thing", flat=Image.new("RGB", (8, 8), (0, 0, 0)), solid=Image.new("RGB", (8, 8), (200, 0, 0)))
    drawn = [Image.new("RGB", (8, 8), (red, 0, 0)) for red in (99, 101, 255, 0)]

    def red_of(picture: Image.Image) -> torch.Tensor:
        return torch.tensor([float(picture.getpixel((0, 0))[0])])  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]

    assert nearer_to_solid(drawn, [truth] * 4, red_of) == 0.5


def test_every_picture_of_a_grid_is_in_its_row_and_column() -> None:
    colours = [["red", "lime"], ["blue", "yellow"], ["cyan", "magenta"]]
    rows = [[Image.new("RGB", (5, 7), colour) for colour in row] for row in colours]
    grid = labelled_grid(rows, ["one", "two", "three"], ["left", "right"], 21)
    assert _colours(grid) == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255),
    ]  # fmt: skip


def _colours(grid: Image.Image) -> list[tuple[int, ...]]:
    """In reading order; greys, which the names are written in, left out."""
    pixels = (grid.getpixel((x, y)) for y in range(grid.height) for x in range(grid.width))
    return list(dict.fromkeys(pixel for pixel in pixels if isinstance(pixel, tuple) and len(set(pixel)) > 1))


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


def test_a_compare_job_leaves_a_grid_a_page_and_a_manifest(trained: RunDir) -> None:
    run_job([trained], {"strengths": [0.5, 1.0], "prompts": ["a <b>bold</b> thing"]})
    (folder,) = trained.grids_dir.iterdir()
    told = json.loads((folder / "manifest.json").read_bytes())
    assert [column["strength"] for column in told["columns"] if column["file"]] == [0.5, 1.0]
    assert told["columns"][1]["bytes"] == adapter_file(trained).stat().st_size
    assert told["shots"][0]["prompt"] == "a <b>bold</b> thing"
    assert "<b>" not in (folder / "index.html").read_text(encoding="utf-8")
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 3 * 256
