"""The demo: twin runs on the model and the pictures that come along, and what they make of things they never saw."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dora_core.atomic import atomic_write
from trainer.compare import exported
from trainer.compare.finished import Figures, figures
from trainer.components import load_components
from trainer.compute import choose_compute
from trainer.config import RunConfig
from trainer.config_io import load_config
from trainer.from_file import Column, draw_column
from trainer.grids import INK, MARGIN_PX, PAPER, labelled_grid, save_grid
from trainer.home import Home
from trainer.likeness import HeldOut, coarse, latents, nearer_to_solid, read_held_out
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.shot import Shot
from trainer.twins import create_runs

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
CELL_PX = 96
TITLE_PX = 24
SETTINGS = (
    "name=demo",
    f"data.folder={SAMPLES / 'icons3d'}",
    "data.instance_prompt=3d style",
    "train.twin=true",
    "train.validation_every_steps=0",
    "sample.every_steps=0",
    "save.every_steps=0",
)


@dataclass(frozen=True)
class Score:
    """Of one column: the shares of the held-out things that are nearer to their true 3D picture than to the flat."""

    title: str
    coarse: float
    latents: float


@dataclass(frozen=True)
class Twin:
    """One of the two runs: what it cost, and the file that it ended as."""

    run: RunDir
    file: Path
    headline: str
    figures: Figures


@dataclass(frozen=True)
class DemoResult:
    twins: tuple[Twin, ...]
    grid: Path
    scores: tuple[Score, ...]
    seconds: float


def run_demo(home: Home, settings: Sequence[str] = ()) -> DemoResult:
    """Train LoRA and DoRA, then draw from their exported files; `settings` come on top of the demo's own."""
    began = time.monotonic()
    config = load_config("starter-dora", [*SETTINGS, *settings])
    twins = [train(run, config.train.steps) for run in create_runs(config, home.runs)]
    columns = (Column("base"), *(Column(name, twin.file) for name, twin in zip(("LoRA", "DoRA"), twins, strict=True)))
    truths = read_held_out(SAMPLES / "held-out")
    drawn, scores = draw_and_score(config, columns, truths)
    seconds = time.monotonic() - began
    title = f"{config.train.steps} steps each, on pictures of other things: {seconds:.0f} s for everything"
    grid = twins[-1].run.grids_dir / "demo" / "grid.png"
    save(grid, titled(demo_grid(columns, truths, drawn, config.data.resolution_px), title), scores, config)
    return DemoResult(tuple(twins), grid, scores, seconds)


def train(run: RunDir, steps: int) -> Twin:
    run_training(run)
    event = exported(run)
    return Twin(run, run.path / event.file, event.headline, figures(run, steps))


def draw_and_score(
    config: RunConfig, columns: Sequence[Column], truths: Sequence[HeldOut]
) -> tuple[list[list[Image.Image]], tuple[Score, ...]]:
    """The pictures of every column, and how near they come to the truths."""
    compute = choose_compute(config.train.precision)
    components = load_components(config.model, dtype=compute.dtype, device=compute.device)
    side, sample = config.data.resolution_px, config.sample
    shots = [
        Shot(truth.caption, sample.negative, seed, sample.steps, sample.guidance, side, side)
        for seed, truth in enumerate(truths)
    ]
    drawn = [draw_column(components, column, shots) for column in columns]
    measures = coarse(components), latents(components, side)
    scores = [
        Score(column.title, *(nearer_to_solid(pictures, truths, seen) for seen in measures))
        for column, pictures in zip(columns, drawn, strict=True)
    ]
    return drawn, tuple(scores)


def demo_grid(
    columns: Sequence[Column], truths: Sequence[HeldOut], drawn: Sequence[Sequence[Image.Image]], side_px: int
) -> Image.Image:
    """The drawn pictures between the true ones of both styles; a thing is a column, all have as many pixels."""
    sides = [truth.flat for truth in truths], [truth.solid for truth in truths]
    rows = [[enlarged(picture, side_px) for picture in row] for row in (sides[0], *drawn, sides[1])]
    names = ["true picture, flat", *(column.title for column in columns), "true picture, 3D"]
    return labelled_grid(rows, names, [truth.caption for truth in truths], CELL_PX)


def enlarged(picture: Image.Image, side_px: int) -> Image.Image:
    """A picture of that many pixels in the size of a cell, smoothly: so small a one shows its squares otherwise."""
    small = picture.resize((side_px, side_px), Image.Resampling.BOX)
    return small.resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)


def titled(grid: Image.Image, text: str) -> Image.Image:
    sheet = Image.new("RGB", (grid.width, grid.height + TITLE_PX), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN_PX, MARGIN_PX), text, INK, ImageFont.load_default(14))
    sheet.paste(grid, (0, TITLE_PX))
    return sheet


def save(path: Path, grid: Image.Image, scores: Sequence[Score], config: RunConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_grid(grid, path)
    rows = [vars(score) for score in scores]
    with atomic_write(path.with_name("manifest.json")) as file:
        file.write(json.dumps({"scores": rows, "sample": config.sample.model_dump(mode="json")}, indent=1).encode())
