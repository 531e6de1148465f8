"""The demo: twin runs on the model and the pictures that come along, and what they make of things they never saw."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dora_core.atomic import atomic_write
from trainer.compare import exported
from trainer.components import load_components
from trainer.compute import choose_compute
from trainer.config import RunConfig
from trainer.config_io import load_config
from trainer.events import Exported
from trainer.from_file import Column, draw_column
from trainer.grids import labelled_grid
from trainer.home import Home
from trainer.likeness import HeldOut, coarse, latents, nearer_to_solid, read_held_out
from trainer.run_dir import RunDir
from trainer.sampling import Shot
from trainer.session import run_training
from trainer.twins import create_runs

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
CELL_PX = 96
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
class DemoResult:
    runs: tuple[RunDir, ...]
    exports: tuple[Exported, ...]
    grid: Path
    scores: tuple[Score, ...]
    seconds: float


def run_demo(home: Home, settings: Sequence[str] = ()) -> DemoResult:
    """Train LoRA and DoRA, then draw from their exported files; `settings` come on top of the demo's own."""
    began = time.monotonic()
    config = load_config("starter-dora", [*SETTINGS, *settings])
    runs = create_runs(config, home.runs)
    for run in runs:
        run_training(run)
    exports = [exported(run) for run in runs]
    files = [run.path / event.file for run, event in zip(runs, exports, strict=True)]
    columns = (Column("base"), Column("LoRA", files[0]), Column("DoRA", files[1]))
    truths = read_held_out(SAMPLES / "held-out")
    drawn, scores = draw_and_score(config, columns, truths)
    grid = runs[-1].grids_dir / "demo" / "grid.png"
    save(grid, demo_grid(columns, truths, drawn), scores, config)
    return DemoResult(tuple(runs), tuple(exports), grid, scores, time.monotonic() - began)


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
    columns: Sequence[Column], truths: Sequence[HeldOut], drawn: Sequence[Sequence[Image.Image]]
) -> Image.Image:
    """The drawn pictures between the true ones of both styles."""
    sides = [truth.flat for truth in truths], [truth.solid for truth in truths]
    rows = list(zip(sides[0], *drawn, sides[1], strict=True))
    names = ["true, flat", *(column.title for column in columns), "true, 3D"]
    return labelled_grid(rows, [truth.caption for truth in truths], names, CELL_PX)


def save(path: Path, grid: Image.Image, scores: Sequence[Score], config: RunConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        grid.save(file, format="PNG", optimize=True)
    rows = [vars(score) for score in scores]
    with atomic_write(path.with_name("manifest.json")) as file:
        file.write(json.dumps({"scores": rows, "sample": config.sample.model_dump(mode="json")}, indent=1).encode())
