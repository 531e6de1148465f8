"""Class pictures: counted, drawn where missing, used again. Samples: the same for the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trainer.build import class_folder, class_shot
from trainer.components import load_components
from trainer.config import RunConfig
from trainer.config_data import PriorConfig
from trainer.config_sections import ModelConfig
from trainer.home import Home
from trainer.priors import complete_class_pictures
from trainer.sampling import draw_picture, draw_samples
from trainer.shot import Shot

SHOT = Shot("a thing", "", 0, steps=2, guidance=2.0, width=32, height=24)


def test_missing_class_pictures_are_drawn_once_each_with_its_own_seed(tmp_path: Path) -> None:
    seeds, counted = list[int](), list[tuple[int, int]]()

    def draw(shot: Shot) -> Image.Image:
        seeds.append(shot.seed)
        return Image.new("RGB", (shot.width, shot.height), (shot.seed, 0, 0))

    def report(done: int, total: int) -> None:
        counted.append((done, total))

    tmp_path.joinpath("mine.jpg").write_bytes(b"a person's own counts too")
    assert complete_class_pictures(tmp_path, 4, SHOT, draw, report) == 3
    assert seeds == [0, 1, 2]
    assert counted == [(1, 4), (2, 4), (3, 4)]
    assert complete_class_pictures(tmp_path, 4, SHOT, draw, report) == 0
    (tmp_path / "class-00001.png").unlink()
    assert complete_class_pictures(tmp_path, 5, SHOT, draw, report) == 2
    assert seeds == [0, 1, 2, 1, 3]
    with Image.open(tmp_path / "class-00003.png") as picture:
        assert json.loads(picture.info["dora_studio"])["prompt"] == "a thing"


def test_class_pictures_are_shared_by_runs_that_would_draw_the_same(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    def folder(fingerprint: str, **changes: object) -> Path:
        prior = PriorConfig(class_prompt=str(changes.pop("class_prompt", "a thing")), count=2)
        return class_folder(Home(tmp_path), fingerprint, class_shot(tiny_settings(**changes), prior))

    first = folder("base 1")
    assert folder("base 1", adapter__rank=7, train__seed=3) == first
    others = {
        folder("base 2"),
        folder("base 1", class_prompt="a dog"),
        folder("base 1", data__resolution_px=48),
        folder("base 1", sample__steps=3),
    }
    assert len(others | {first}) == 5


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_shot_is_the_same_picture_every_time(family: str, tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    components = load_components(ModelConfig(base=str(tiny_base(family))))
    pictures = [draw_picture(components, SHOT) for _ in range(2)]
    assert pictures[0].size == (32, 24)
    assert pictures[0].tobytes() == pictures[1].tobytes()
    folder = tmp_path / "step-000003"
    for _ in range(2):  # drawing again replaces
        draw_samples(components, [SHOT], folder)
    assert sorted(file.name for file in folder.iterdir()) == ["00.png", "samples.json"]
    assert Image.open(folder / "00.png").tobytes() == pictures[0].tobytes()
    assert json.loads((folder / "samples.json").read_text())[0]["seed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
