"""Grids on disk: small where that is not to be seen, exact where it would be."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trainer.grids import labelled_grid, save_grid

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
