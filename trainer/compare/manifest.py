"""manifest.json of a comparison: what was drawn with what, and what was measured. README.md has the schema.

Free of torch, for the page. A figure that nobody measured is null.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dora_core.layouts import Layout
from dora_core.spec import NormAxis

VERSION = 2
MANIFEST, PAGE, GRID, PLOT, PICTURES, FILES = (
    "manifest.json",
    "index.html",
    "grid.png",
    "layers.png",
    "pictures",
    "files",
)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BaseEntry(_Entry):
    name: str
    family: str
    sha256: str
    device: str
    dtype: str  # that the model was held in while it drew


class ColumnEntry(_Entry):
    """The base model comes first, with null for all that only an adapter has."""

    title: str
    source: str | None = None  # as it stands in the command
    kind: Literal["base", "lora", "dora", "full", "difference"] = "base"
    norm_axis: NormAxis | None = None
    ranks: tuple[int, ...] = ()  # all that occur
    strength: float | None = None
    file: str | None = None  # relative to this folder where it was exported for this comparison, else absolute
    bytes: int | None = None
    sha256: str | None = None
    layout: Layout | None = None
    consumer: str | None = None  # key in dora_core.consumers of the formula that the weights were merged by
    program: str | None = None  # that consumer's name
    headline: str | None = None  # of the parity check
    steps: int | None = None
    seconds_per_step: float | None = None  # median
    peak_mib: float | None = None
    validation_loss: float | None = None  # the last
    distance: float | None = None  # root mean square over the column's cells


class RowEntry(_Entry):
    label: str
    prompt: str
    negative: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int


class CellEntry(_Entry):
    column: int
    row: int
    picture: str  # relative to this folder
    distance: float  # to the base's picture of that row: root mean square over pixels and channels, 0 to 1


class LayerEntry(_Entry):
    name: str
    block: str
    magnitude_change: float  # mean over vectors of abs(norm(W_n) - norm(W0_n))
    direction_change: float  # mean over vectors of 1 - cos(W_n, W0_n)
    relative_update: float  # norm(W' - W0) / norm(W0)


class AnalysisEntry(_Entry):
    """What a file changes at strength 1, as its layout means it, along `axis`."""

    title: str
    source: str
    axis: NormAxis
    magnitude_change: float
    direction_change: float
    correlation: float | None  # of the two over layers
    layers: tuple[LayerEntry, ...]  # in the order of the model


class Manifest(_Entry):
    v: Literal[2] = VERSION
    made_at: datetime  # ISO 8601, UTC
    command: str
    base: BaseEntry
    columns: tuple[ColumnEntry, ...]
    rows: tuple[RowEntry, ...]
    cells: tuple[CellEntry, ...]  # row by row
    analysis: tuple[AnalysisEntry, ...]
    notes: tuple[str, ...]  # what the pictures alone would not tell

    def cell(self, row: int, column: int) -> CellEntry:
        return self.cells[row * len(self.columns) + column]


def read_manifest(folder: Path) -> Manifest:
    """Of a comparison's folder; FileNotFoundError or ValidationError where it is none."""
    return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
