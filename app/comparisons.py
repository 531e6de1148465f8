"""The comparisons of a home: found in the grids of its runs and in its own, the newest first, and shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.media import download_url, media_url
from app.studio import Studio
from trainer.compare.manifest import GRID, MANIFEST, PAGE, PLOT, ColumnEntry, Manifest, read_manifest
from trainer.failures import ExplainedError

MOST = 60
THUMBNAIL_PX, CELL_PX = 320, 640  # as wide as they are sent at most
DOWNLOADS = (("Grid (PNG)", GRID), ("Plot (PNG)", PLOT), ("Page (HTML)", PAGE), ("Figures (JSON)", MANIFEST))


class NoSuchComparisonError(ExplainedError):
    """It has been deleted, or never was."""


@dataclass(frozen=True)
class Found:
    """`key` names it in the page: the path of its folder below the home."""

    key: str
    folder: Path
    stamp: tuple[int, int]  # of its manifest: time and size


@dataclass(frozen=True)
class Listed:
    """What the list shows of a comparison."""

    titles: tuple[str, ...]
    sha256: tuple[str | None, ...]  # of the files
    made_at: str
    rows: int


def comparisons(studio: Studio) -> list[tuple[Found, Listed]]:
    """The newest first."""
    found = ((one, _listed(one.folder, one.stamp)) for one in _found(studio))
    whole = [(one, listed) for one, listed in found if listed is not None]
    return sorted(whole, key=lambda pair: (pair[1].made_at, pair[0].key), reverse=True)


def entries(studio: Studio) -> list[dict[str, Any]]:
    return [
        {
            "key": found.key,
            "titles": listed.titles,
            "made": listed.made_at,
            "pictures": listed.rows * (1 + len(listed.titles)),
            "grid": _picture(studio, found.folder / GRID, THUMBNAIL_PX),
        }
        for found, listed in comparisons(studio)[:MOST]
    ]


def find(studio: Studio, key: str) -> Path:
    """The folder of that key. Raises NoSuchComparisonError for whatever is not in the list."""
    folder = next((found.folder for found in _found(studio) if found.key == key), None)
    if folder is None:
        raise NoSuchComparisonError("This comparison is not there (any more).", "Choose another, or draw it again.")
    return folder


def shown(studio: Studio, key: str) -> dict[str, Any]:
    """All that the page shows of a comparison."""
    folder = find(studio, key)
    try:
        manifest = read_manifest(folder)
    except (OSError, ValidationError):
        raise NoSuchComparisonError("This comparison cannot be read.", "Draw it again.") from None
    base = manifest.base
    return {
        "key": key,
        "made": manifest.made_at.isoformat(),
        "base": f"{base.name}, drawn on {base.device} in {base.dtype}",
        "size": (manifest.rows[0].width, manifest.rows[0].height),
        "command": manifest.command,
        "notes": manifest.notes,
        "columns": [{"title": column.title, "kind": column.kind} for column in manifest.columns],
        "rows": [_row(manifest, number) for number in range(len(manifest.rows))],
        "cells": [
            [_cell(studio, folder, manifest, row, column) for column in range(len(manifest.columns))]
            for row in range(len(manifest.rows))
        ],
        "table": table(manifest),
        "analysis": [entry.model_dump(exclude={"source"}) for entry in manifest.analysis],
        "downloads": [
            {"title": title, "url": download_url(studio, folder / name)}
            for title, name in DOWNLOADS
            if (folder / name).is_file()
        ],
    }


def table(manifest: Manifest) -> list[dict[str, Any]]:
    """A row per figure; a cell is its text, or why nobody knows the figure."""
    figures = (
        ("training steps", lambda column: _number(column.steps, "{:,}")),
        ("seconds per step", lambda column: _number(column.seconds_per_step, "{:.2f}")),
        ("peak memory", lambda column: _number(column.peak_mib, "{:,.0f} MiB")),
        ("validation loss", lambda column: _number(column.validation_loss, "{:.4f}")),
        ("file size", lambda column: "" if column.bytes is None else size_in_words(column.bytes)),
        ("distance to base", lambda column: _number(column.distance, "{:.4f}")),
    )
    return [
        {"title": title, "cells": [_figure(title, column, text(column)) for column in manifest.columns]}
        for title, text in figures
    ]


def size_in_words(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:,.0f} KiB"


def _figure(title: str, column: ColumnEntry, text: str) -> dict[str, str]:
    return {"text": text, "why": "" if text else _why(title, column)}


def _why(title: str, column: ColumnEntry) -> str:
    """Why a figure is null."""
    if column.kind == "base":
        return "the base model as it is: nothing was trained"
    if column.seconds_per_step is None:
        return "the run that the file came from is not at hand, or the file does not say its step"
    return {
        "peak memory": "nothing measures it on a processor",
        "validation loss": "the run measured none",
    }.get(title, "nobody measured it")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _row(manifest: Manifest, number: int) -> dict[str, Any]:
    row = manifest.rows[number]
    drawn = [f"seed {row.seed}", f"{row.steps} steps", f"guidance {row.guidance:g}", f"{row.width}x{row.height}"]
    return {"label": row.label, "prompt": row.prompt, "negative": row.negative, "drawn": " · ".join(drawn)}


def _cell(studio: Studio, folder: Path, manifest: Manifest, row: int, column: int) -> dict[str, Any]:
    cell = manifest.cell(row, column)
    file = folder / cell.picture
    is_small = manifest.rows[row].width <= CELL_PX
    whole = _picture(studio, file)
    return {"small": whole if is_small else _picture(studio, file, CELL_PX), "whole": whole, "distance": cell.distance}


def _picture(studio: Studio, file: Path, width: int | None = None) -> str:
    """Its address; "" for one that somebody deleted."""
    try:
        return media_url(studio, file, width)
    except OSError:
        return ""


def _found(studio: Studio) -> Iterator[Found]:
    roots = [studio.grids, *(run / "grids" for run in _subfolders(studio.home.runs))]
    for folder in (folder for root in roots for folder in _subfolders(root)):
        try:
            stat = os.stat(folder / MANIFEST)
        except OSError:
            continue
        yield Found(folder.relative_to(studio.home.path).as_posix(), folder, (stat.st_mtime_ns, stat.st_size))


def _subfolders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []


@lru_cache(maxsize=1024)
def _listed(folder: Path, stamp: tuple[int, int]) -> Listed | None:
    try:
        manifest = read_manifest(folder)
    except (OSError, ValidationError):
        return None
    adapters = manifest.columns[1:]
    return Listed(
        tuple(column.title for column in adapters),
        tuple(column.sha256 for column in adapters),
        manifest.made_at.isoformat(),
        len(manifest.rows),
    )
