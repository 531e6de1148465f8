"""The pictures of a comparison, each in a file of its own, and how far each is from the base model's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import JsonValue

from trainer.compare.manifest import PICTURES, CellEntry
from trainer.components import Components
from trainer.from_file import Column, draw_one_by_one
from trainer.grids import fitted, rms_difference
from trainer.run_dir import slug
from trainer.shot import Shot

CELL_PX = 256
Report = Callable[[int, int], None]  # pictures done, of all


@dataclass(frozen=True)
class Drawn:
    """Row by row."""

    cells: tuple[CellEntry, ...]
    small: tuple[tuple[Image.Image, ...], ...]  # as large as a grid shows them

    def distances(self, column: int) -> list[float]:
        return [cell.distance for cell in self.cells if cell.column == column]


def draw_cells(
    components: Components,
    columns: Sequence[Column],
    facts: Sequence[Mapping[str, JsonValue]],
    shots: Sequence[Shot],
    folder: Path,
    report: Report,
) -> Drawn:
    """Draw column by column, the base model's first; `facts` of a column are kept in each of its pictures."""
    (folder / PICTURES).mkdir()
    cells: list[CellEntry] = []
    small: list[list[Image.Image]] = [[] for _ in shots]
    base: list[Image.Image] = []
    for number, (column, known) in enumerate(zip(columns, facts, strict=True)):
        for row, picture in enumerate(draw_one_by_one(components, column, shots)):
            if number == 0:
                base.append(picture)
            name = f"{PICTURES}/{row * len(columns) + number:03d}-{slug(column.title)}.png"
            _save(picture, {**asdict(shots[row]), **known}, folder / name)
            distance = rms_difference(picture, base[row]) / 255
            cells.append(CellEntry(column=number, row=row, picture=name, distance=distance))
            small[row].append(fitted(picture, CELL_PX))
            report(len(cells), len(columns) * len(shots))
    return Drawn(tuple(sorted(cells, key=lambda cell: (cell.row, cell.column))), tuple(map(tuple, small)))


def _save(picture: Image.Image, facts: Mapping[str, JsonValue], path: Path) -> None:
    """With all that is needed to draw it again in its metadata."""
    info = PngInfo()
    info.add_text("dora_studio", json.dumps(facts))
    picture.save(path, format="PNG", pnginfo=info)
