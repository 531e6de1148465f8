"""Masked loss and the options of captions do what they say, on the model that comes along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.conftest import QUICK_ON_STARTER, SUBJECT
from trainer.build import build_training
from trainer.compare import exported
from trainer.components import load_components
from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.config_io import load_config
from trainer.data.scan import picture_files
from trainer.from_file import Column, draw_column
from trainer.home import Home
from trainer.loop import take_step
from trainer.noise import Draw
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.shot import Shot
from trainer.training import Training

SIDE_PX = 64
MAGENTA = (255, 0, 255)
SETTINGS = ("name=sets", *QUICK_ON_STARTER)


@pytest.mark.slow
def test_what_lies_outside_the_mask_is_not_learned(tmp_path: Path) -> None:
    """Penguins whose right third is magenta: how much of the right third of what is drawn is magenta."""
    pictures, masks = painted(tmp_path)
    folder, whole = f"data.folder={pictures}", "data.caption_source=prompt"
    components = load_components(load_config("starter-dora", [*SETTINGS, folder]).model)
    columns = {"base": Column("base")} | {
        name: Column(name, trained(tmp_path / name.replace(" ", "-"), [folder, whole, *more]))
        for name, more in {
            "no mask": [],
            "mask": [f"data.mask.source={masks}"],
            "mask, 0.2 outside": [f"data.mask.source={masks}", "data.mask.unmasked_weight=0.2"],
        }.items()
    }
    shots = [Shot("a sks penguin", "", seed, 10, 2.0, SIDE_PX, SIDE_PX) for seed in range(8)]
    found = {name: magenta(draw_column(components, column, shots)) for name, column in columns.items()}
    print({name: round(share, 3) for name, share in found.items()})
    assert found["no mask"] > 0.3
    assert found["mask"] < 0.02
    assert found["mask"] <= found["mask, 0.2 outside"] < found["no mask"]


@pytest.mark.slow
def test_captions_that_are_left_out_teach_what_no_caption_means(tmp_path: Path) -> None:
    """The error of the penguins under no caption, by that of the base model, after the same steps."""
    found: dict[str, tuple[float, float]] = {}
    for name, more in {"captions": (), "half of them left out": ("data.caption_dropout=0.5",)}.items():
        training = built(tmp_path, load_config("starter-dora", [*SETTINGS, f"data.folder={SUBJECT}", *more]))
        before = errors(training)
        for step in range(1, training.steps + 1):
            take_step(training, step)
        own, none = errors(training)
        found[name] = own / before[0], none / before[1]
    print({name: {"own caption": own, "none": none} for name, (own, none) in found.items()})
    assert found["half of them left out"][1] < found["captions"][1]


@pytest.mark.slow
def test_of_a_thousand_captions_as_many_are_changed_as_was_said(tmp_path: Path) -> None:
    for number, picture in enumerate(picture_files(SUBJECT)):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
        (tmp_path / f"{picture.stem}.txt").write_text(f"penguin, {{plain|bare}} background, toy, number {number}")
    folder = f"data.folder={tmp_path}"
    shares: dict[str, float] = {}
    for name, more, is_so in (
        ("trigger=sks: it comes first", ["trigger=sks"], lambda text: text.startswith("sks, penguin")),
        ("caption_dropout=0.1: nothing is left", ["caption_dropout=0.1"], lambda text: not text),
        ("tag_dropout=0.2, keep_tags=1: 'toy' is there", ["tag_dropout=0.2", "keep_tags=1"], lambda t: "toy" in t),
        ("tag_dropout=0.2, keep_tags=1: 'penguin' is there", ["tag_dropout=0.2", "keep_tags=1"], lambda t: "pen" in t),
        ("shuffle_tags, keep_tags=1: 'toy' is second", ["shuffle_tags=true", "keep_tags=1"], lambda t: "in, toy" in t),
        ("wildcards: 'bare'", ["wildcards=true"], lambda text: "bare" in text and "{" not in text),
    ):
        settings = [f"data.{setting}" for setting in more]
        dataset = built(tmp_path / "home", load_config("starter-dora", [*SETTINGS, folder, *settings])).datasets[0]
        captions = [text for number in range(250) for text in dataset.batch(number).captions]
        shares[name] = sum(map(is_so, captions)) / len(captions)
    print(shares)
    wanted = [1, 0.1, 0.8, 1, 1 / 3, 1 / 2]
    assert list(shares.values()) == pytest.approx(wanted, abs=0.05)


def painted(folder: Path) -> tuple[Path, Path]:
    """The penguins with a magenta right third, and masks that leave it out."""
    pictures, masks = folder / "pictures", folder / "masks"
    pictures.mkdir(parents=True)
    masks.mkdir()
    for path in picture_files(SUBJECT):
        picture, mask = Image.open(path).convert("RGB"), Image.new("L", (256, 256), 255)
        picture.paste(MAGENTA, (171, 0, 256, 256))
        mask.paste(0, (171, 0, 256, 256))
        picture.save(pictures / f"{path.stem}.png")
        mask.save(masks / f"{path.stem}.png")
    return pictures, masks


def magenta(drawn: Sequence[Image.Image]) -> float:
    """Of the pixels of the right quarter, the share with both red and blue high and green low."""
    raw = b"".join(picture.convert("RGB").tobytes() for picture in drawn)
    pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, SIDE_PX, SIDE_PX, 3)
    red, green, blue = pixels[:, :, 3 * SIDE_PX // 4 :].unbind(-1)
    return float(((red > 180) & (blue > 180) & (green < 90)).float().mean())


def trained(home: Path, more: Sequence[str]) -> Path:
    run = RunDir.create(Home(home).runs, load_config("starter-dora", [*SETTINGS, *more]))
    run_training(run)
    return run.path / exported(run).file


def built(home: Path, config: RunConfig) -> Training:
    compute = Compute(torch.device("cpu"), torch.float32)
    return build_training(config, load_components(config.model), compute, Home(home), lambda *_: None)


def errors(training: Training) -> tuple[float, float]:
    """Under their own captions, and under none; noise and timesteps are always the same."""
    dataset = training.datasets[0]
    batch = dataset.plain_batch(range(len(dataset.examples)))
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.latents.shape, generator=random)
    draws = [Draw(noise, torch.full((len(noise),), timestep)) for timestep in (200, 400, 600, 800)]
    none = replace(batch, captions=("",) * len(noise))
    with training.evaluating():
        own, without = (
            torch.stack([training.denoiser.loss(one, fixed).errors for fixed in draws]).mean() for one in (batch, none)
        )
    return float(own), float(without)
