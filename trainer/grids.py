"""One picture of many: rows and columns with their names."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN_PX = 6
LABEL_PX = 150  # width of the rows' names
LINE_PX = 15
PAPER, INK = "white", "black"


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]], row_names: Sequence[str], column_names: Sequence[str], cell_px: int
) -> Image.Image:
    """The pictures of each row side by side, each fitted into a square cell, under the names of the columns."""
    font = ImageFont.load_default(12)
    pitch = cell_px + MARGIN_PX
    head = MARGIN_PX + LINE_PX * max(len(_lines(name, cell_px)) for name in column_names)
    size = LABEL_PX + pitch * len(column_names), head + pitch * len(rows)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(column_names):
        draw.multiline_text((LABEL_PX + pitch * number, 2), "\n".join(_lines(name, cell_px)), INK, font)
    for number, (name, pictures) in enumerate(zip(row_names, rows, strict=True)):
        top = head + pitch * number
        draw.multiline_text((MARGIN_PX, top), "\n".join(_lines(name, LABEL_PX)), INK, font)
        for column, picture in enumerate(pictures):
            sheet.paste(_fitted(picture, cell_px), (LABEL_PX + pitch * column, top))
    return sheet


def _lines(text: str, width_px: int) -> list[str]:
    return textwrap.wrap(text, max(width_px // 7, 1)) or [""]


def _fitted(picture: Image.Image, cell_px: int) -> Image.Image:
    """As large as fits; enlarged without smoothing, so that what is seen is what was drawn."""
    scale = cell_px / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
