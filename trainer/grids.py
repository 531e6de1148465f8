"""One picture of many: rows and columns with their names."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from dora_core.atomic import atomic_write

MARGIN_PX = 6
LABEL_PX = 150  # width of the rows' names
LINE_PX = 15
HEAD_LINES = 4
PAPER, INK = "white", "black"
PALETTE_ERROR = 4  # `rms_difference` to the picture; looked at in its own size, nothing is missing then
PALETTE_PIXELS = 2_000_000  # finding the colours takes about 2 seconds for a million


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]], row_names: Sequence[str], column_names: Sequence[str], cell_px: int
) -> Image.Image:
    """The pictures of each row side by side, each fitted into a square cell, under the names of the columns."""
    font = ImageFont.load_default(12)
    pitch = cell_px + MARGIN_PX
    heads = [_lines(name, cell_px, HEAD_LINES) for name in column_names]
    head = MARGIN_PX + LINE_PX * max(map(len, heads))
    size = LABEL_PX + pitch * len(column_names), head + pitch * len(rows)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, lines in enumerate(heads):
        draw.multiline_text((LABEL_PX + pitch * number, 2), "\n".join(lines), INK, font)
    for number, (name, pictures) in enumerate(zip(row_names, rows, strict=True)):
        top = head + pitch * number
        draw.multiline_text((MARGIN_PX, top), "\n".join(_lines(name, LABEL_PX, cell_px // LINE_PX)), INK, font)
        for column, picture in enumerate(pictures):
            sheet.paste(fitted(picture, cell_px), (LABEL_PX + pitch * column, top))
    return sheet


def save_grid(image: Image.Image, path: Path) -> None:
    """As PNG, there whole or not at all: with 256 colours, a quarter of the size, where that is not to be seen."""
    with atomic_write(path) as file:
        in_few_colours(image).save(file, format="PNG", optimize=True)


def in_few_colours(image: Image.Image) -> Image.Image:
    """The picture with a palette of its own, or as it was where 256 colours would show or take long to find."""
    if image.width * image.height > PALETTE_PIXELS:
        return image
    reduced = image.quantize(256, kmeans=1)
    return reduced if rms_difference(image, reduced.convert("RGB")) <= PALETTE_ERROR else image


def rms_difference(one: Image.Image, other: Image.Image) -> float:
    """Root mean square over pixels and channels, 0 to 255, of two RGB pictures of one size."""
    errors = ImageStat.Stat(ImageChops.difference(one, other)).rms
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def _lines(text: str, width_px: int, at_most: int) -> list[str]:
    return textwrap.wrap(text, max(width_px // 7, 1), max_lines=at_most, placeholder=" ...") or [""]


def fitted(picture: Image.Image, cell_px: int) -> Image.Image:
    """As large as fits; enlarged without smoothing, so that what is seen is what was drawn."""
    scale = cell_px / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
