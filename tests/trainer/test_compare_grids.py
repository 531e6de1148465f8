"""Grids on disk: small where that is not to be seen, exact where it would be."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trainer.grids import save_grid

HUES = Image.merge(
    "RGB", [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90), Image.radial_gradient("L")]
)


def test_a_grid_of_few_colours_is_kept_exactly_in_a_palette(tmp_path: Path) -> None:
    flags = Image.new("RGB", (300, 200), (200, 30, 30))
    flags.paste((0, 60, 250), (0, 0, 150, 90))
    save_grid(flags, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as read:
        assert read.mode == "P"
        assert read.convert("RGB").tobytes() == flags.tobytes()


@pytest.mark.parametrize("image", [HUES, Image.new("RGB", (2001, 1000), "red")], ids=["all hues", "large"])
def test_a_grid_that_would_show_it_or_take_long_keeps_all_its_colours(tmp_path: Path, image: Image.Image) -> None:
    save_grid(image, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as read:
        assert read.mode == "RGB"
        assert read.tobytes() == image.tobytes()
