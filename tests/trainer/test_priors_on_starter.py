"""Prior preservation does what it is there for: one penguin changes, the others stay nearly as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.conftest import QUICK_ON_STARTER, SUBJECT
from trainer.compare import exported
from trainer.components import Components, load_components
from trainer.config_io import load_config
from trainer.from_file import Column, draw_column
from trainer.home import Home
from trainer.likeness import latents
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.shot import Shot

SIDE_PX = 64
COLOURS = ("a blue", "a red", "a grey", "a yellow")
SETTINGS = ("name=prior", f"data.folder={SUBJECT}", *QUICK_ON_STARTER, "sample.guidance=2")
PRIOR = ("data.prior.class_prompt=a penguin", "data.prior.count=12")


@pytest.mark.slow
def test_with_the_prior_the_class_stays_nearer_to_the_base_while_the_subject_moves(tmp_path: Path) -> None:
    components = load_components(load_config("starter-dora", SETTINGS).model)
    without, kept = (Column("", trained(tmp_path, more)) for more in ((), PRIOR))
    moved = {
        (thing, column): distance(components, draw(components, column, thing), draw(components, Column("base"), thing))
        for thing in ("a penguin", "a sks penguin")
        for column in (without, kept)
    }
    print({(thing, "with" if column is kept else "without"): value for (thing, column), value in moved.items()})
    assert moved["a penguin", kept] < moved["a penguin", without]
    assert moved["a penguin", kept] < moved["a sks penguin", kept]  # told from its class


def trained(home: Path, more: Sequence[str]) -> Path:
    run = RunDir.create(Home(home).runs, load_config("starter-dora", [*SETTINGS, *more]))
    run_training(run)
    return run.path / exported(run).file


def draw(components: Components, column: Column, thing: str) -> list[Image.Image]:
    """On every colour, with the same noise whatever draws it."""
    prompts = [f"{thing} on {colour} background" for colour in COLOURS]
    return draw_column(
        components, column, [Shot(prompt, "", seed, 10, 2.0, SIDE_PX, SIDE_PX) for seed, prompt in enumerate(prompts)]
    )


def distance(components: Components, some: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Mean squared error of the latents, over all pictures."""
    seen = latents(components, SIDE_PX)
    pairs = zip(some, others, strict=True)
    return torch.stack([(seen(one) - seen(other)).square().mean() for one, other in pairs]).mean().item()
