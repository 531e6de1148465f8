"""Base model and exported adapters side by side: the same prompts and seeds, drawn from the files."""

from __future__ import annotations

import html
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import JsonValue

from dora_core.atomic import atomic_write
from trainer.build import load_examples, sample_shots
from trainer.components import load_components
from trainer.compute import choose_compute
from trainer.config_io import config_from, read_toml
from trainer.events import Exported, read_events
from trainer.failures import ExplainedError
from trainer.from_file import Column, draw_column
from trainer.grids import labelled_grid
from trainer.run_dir import RunDir
from trainer.sampling import Shot

CELL_PX = 256


class NothingExportedError(ExplainedError):
    """A run without a file to compare."""

    category = "missing file"


def compare_runs(runs: Sequence[RunDir], strengths: Sequence[float] = (1.0,), prompts: Sequence[str] = ()) -> Path:
    """Draw base and runs, all with the first run's base model and sample settings; returns the folder, in its grids.

    Raises NothingExportedError for a run that is not finished.
    """
    config = config_from(read_toml(runs[0].config_file))
    caption = "" if config.sample.prompts or config.data.instance_prompt else load_examples(config.data)[0].caption
    shots: Sequence[Shot] = sample_shots(config, caption)
    if prompts:
        shots = [replace(shots[0], prompt=prompt, seed=config.sample.seed + n) for n, prompt in enumerate(prompts)]
    columns = [
        Column("base"),
        *(Column(f"{r.id} x {s:g}", r.path / exported(r).file, s) for r in runs for s in strengths),
    ]
    compute = choose_compute(config.train.precision)
    components = load_components(config.model, dtype=compute.dtype, device=compute.device)
    drawn = [draw_column(components, column, shots) for column in columns]
    names = [shot.prompt for shot in shots]
    folder = runs[0].grids_dir / f"compare-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    labelled_grid(list(zip(*drawn, strict=True)), names, [c.title for c in columns], CELL_PX).save(folder / "grid.png")
    (folder / "index.html").write_text(page(columns, names), encoding="utf-8")
    with atomic_write(folder / "manifest.json") as file:  # last: who finds it finds the pictures too
        file.write(manifest(columns, shots).encode())
    return folder


def exported(run: RunDir) -> Exported:
    """The first file that a finished run was exported to; raises NothingExportedError."""
    for event in read_events(run.events_file)[0]:
        if isinstance(event, Exported):
            return event
    raise NothingExportedError(f"{run.id} has no exported file yet.", "Let it finish, or leave it out.")


def manifest(columns: Sequence[Column], shots: Sequence[Shot]) -> str:
    rows = [{**asdict(c), "file": c.file and str(c.file), "bytes": c.file and c.file.stat().st_size} for c in columns]
    return json.dumps({"v": 1, "columns": rows, "shots": [asdict(shot) for shot in shots]}, indent=1)


def page(columns: Sequence[Column], prompts: Sequence[str]) -> str:
    """The grid with what is in it, as a page without scripts."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in (*(c.title for c in columns), *prompts))
    head = '<!doctype html><meta charset="utf-8"><title>Comparison</title>'
    return f'{head}<img src="grid.png" alt="pictures by prompt and adapter"><ul>{items}</ul>'


def run_job(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    """A job of kind "compare"; parameters `strengths`: a list of numbers, `prompts`: a list of texts."""
    strengths, prompts = parameters.get("strengths"), parameters.get("prompts")
    compare_runs(
        runs,
        [float(str(value)) for value in strengths] if isinstance(strengths, list) else (1.0,),
        [str(value) for value in prompts] if isinstance(prompts, list) else (),
    )
