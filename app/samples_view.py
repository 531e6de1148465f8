"""The samples of a run as a matrix: a row for each step, a column for each prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.media import media_url
from app.studio import Studio
from trainer.config import RunConfig
from trainer.run_dir import RunDir
from trainer.status import RunStatus

THUMBNAIL_PX = 320
MOST_ROWS = 400


@dataclass(frozen=True)
class Row:
    """`asked`: drawn on request, with a run's settings or others."""

    step: int
    asked: bool
    cells: tuple[dict[str, Any], ...]


def matrix(studio: Studio, run: RunDir, status: RunStatus, config: RunConfig | None) -> dict[str, Any]:
    """The value of the widget. `next` is the step whose samples come next, None when none do."""
    rows = _rows(studio, run.samples_dir)
    regular = [row for row in rows if not row.asked]
    prompts = config.sample.prompts if config else ()
    columns = [cell["prompt"] for cell in regular[-1].cells] if regular else list(prompts)
    return {
        "run": run.id,
        "columns": columns,
        "rows": [{"step": row.step, "asked": row.asked, "cells": row.cells} for row in rows[-MOST_ROWS:]],
        "next": next_step(config, status, [row.step for row in regular]) if config else None,
        "count": max(len(columns), len(prompts), 1),
    }


def next_step(config: RunConfig, status: RunStatus, drawn: Sequence[int]) -> int | None:
    """Which step the next samples are due at, as the loop decides it."""
    if not status.is_live and status.state != "queued":
        return None
    if not drawn and status.step == 0:
        return 0
    every, steps = config.sample.every_steps, config.train.steps
    before = status.step // every * every if every else steps
    due = [before, before + every, steps] if every else [steps]
    return next((step for step in due if status.step <= step <= steps and step not in drawn), None)


def _rows(studio: Studio, folder: Path) -> list[Row]:
    """By step; those that were asked for after those of the same step."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []
    rows = [_row(studio, folder / name) for name in names if name.startswith(("step-", "asked-"))]
    return sorted((row for row in rows if row is not None), key=lambda row: (row.step, row.asked))


def _row(studio: Studio, folder: Path) -> Row | None:
    """None: its step has no number, or it is going away."""
    kind, step, *_ = folder.name.split("-")
    try:
        changed = folder.stat().st_mtime_ns
        return Row(int(step), kind == "asked", _cells(studio, folder, changed))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=2000)
def _cells(studio: Studio, folder: Path, changed: int) -> tuple[dict[str, Any], ...]:
    """A folder appears whole and is replaced whole, so it is read once for each time that it changed."""
    shots = json.loads((folder / "samples.json").read_bytes())
    return tuple(
        {
            "prompt": str(shot["prompt"]),
            "seed": int(shot["seed"]),
            "small": media_url(studio, folder / Path(shot["file"]).name, THUMBNAIL_PX),
            "full": media_url(studio, folder / Path(shot["file"]).name),
        }
        for shot in shots
    )
