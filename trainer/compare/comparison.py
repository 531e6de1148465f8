"""Base model and adapter files side by side: same prompts and seeds, drawn as each file's own program draws them."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dora_core.atomic import atomic_write
from dora_core.metadata import OWN_PREFIX
from trainer.adapter_source import base_named
from trainer.base_weights import BaseModel
from trainer.compare.drawing import CELL_PX, Drawn, Report, draw_cells
from trainer.compare.finished import Figures, figures
from trainer.compare.layers import analyze_sources, plot_layers
from trainer.compare.manifest import GRID, MANIFEST, PAGE, PLOT, BaseEntry, ColumnEntry, Manifest, RowEntry
from trainer.compare.notes import notes_on
from trainer.compare.page import page
from trainer.compare.publish import new_folder
from trainer.compare.request import Request, RequestError, check_count
from trainer.compare.rows import choose_rows, labels
from trainer.compare.sources import (
    Found,
    Source,
    choose_model,
    find_source,
    foreign_to,
    open_found,
    title_of,
    told_apart,
)
from trainer.components import load_components
from trainer.compute import Compute, choose_compute
from trainer.config_sections import ModelConfig, Precision
from trainer.disk import require_free
from trainer.from_file import Column, consumer_of
from trainer.grids import labelled_grid, save_grid
from trainer.shot import Shot
from trainer.store import Store

KEPT_IN_PICTURES = {"title", "source", "kind", "strength", "sha256", "consumer"}


@dataclass(frozen=True)
class Scene:
    """A comparison that can be drawn: everything is there and fits."""

    command: str
    model: ModelConfig
    precision: Precision
    base: BaseModel
    sources: Sequence[Source]
    strengths: Sequence[float]
    shots: Sequence[Shot]

    @property
    def cells(self) -> int:
        return len(self.shots) * (1 + len(self.sources) * len(self.strengths))


def compare(request: Request, store: Store, out: Path | None = None, report: Report = lambda done, total: None) -> Path:
    """Draw what is asked for; returns the folder, which is `out`, or a new one in the first run's grids.

    Raises ExplainedError and FileFormatError, before the model is loaded, for all that can be known then.
    """
    found = [find_source(name, store) for name in request.sources]
    model = choose_model(request, found)
    base = base_named(model.base, model.revision)
    config = next((one.config for one in found if one.config is not None), None)
    shots = choose_rows(request, config, found[0].trigger_phrase, base)
    check_count(len(shots), 1 + len(found) * len(request.strengths))
    final = out or _new_place(found, store)
    is_of_run = final.is_relative_to(store.home.runs)
    final.parent.mkdir(parents=not is_of_run, exist_ok=True)  # a run that is gone by now is not made again
    with new_folder(final) as folder:
        sources = _opened(request, found, base, folder)
        command = request.command(tuple(one.said for one in found))
        precision: Precision = "auto" if config is None else config.train.precision
        _draw(Scene(command, model, precision, base, sources, request.strengths, shots), folder, report)
    return final


def _new_place(found: Sequence[Found], store: Store) -> Path:
    run = next((one.run for one in found if one.run is not None), None)
    grids = store.home.path / "grids" if run is None else run.grids_dir
    return grids / f"compare-{datetime.now(UTC):%Y-%m-%d-%H%M}-{secrets.token_hex(2)}"


def _opened(request: Request, found: Sequence[Found], base: BaseModel, folder: Path) -> list[Source]:
    sources = [open_found(one, base, folder) for one in found]
    if request.base is None and (foreign := foreign_to(sources, base)):
        raise RequestError(
            f"{foreign[0].said} was made on another base model than {base.path}.",
            "Compare it alone, or say with --base which model to draw everything with.",
        )
    titles = told_apart([title_of(source, one) for source, one in zip(sources, found, strict=True)])
    return [replace(source, title=title) for source, title in zip(sources, titles, strict=True)]


def _draw(scene: Scene, folder: Path, report: Report) -> None:
    """Everything of the comparison's folder; the manifest last."""
    pixels = scene.shots[0].width * scene.shots[0].height
    require_free(folder, 3 * pixels * scene.cells, "the comparison")
    compute = choose_compute(scene.precision)
    components = load_components(scene.model, dtype=compute.dtype, device=compute.device)
    entries = [ColumnEntry(title="base")]
    columns = [Column("base")]
    for source in scene.sources:
        for strength in scene.strengths:
            entries.append(_entry(source, strength, scene, folder))
            columns.append(Column(entries[-1].title, source.file, strength))
    facts = [entry.model_dump(include=KEPT_IN_PICTURES) | {"base": scene.base.sha256} for entry in entries]
    drawn = draw_cells(components, columns, facts, scene.shots, folder, report)
    manifest = _manifest(scene, _with_distances(entries, drawn), drawn, compute)
    names = [row.label for row in manifest.rows]
    save_grid(labelled_grid(drawn.small, names, [column.title for column in columns], CELL_PX), folder / GRID)
    plot_layers(manifest.analysis, folder / PLOT)
    with atomic_write(folder / PAGE) as file:
        file.write(page(manifest, folder).encode())
    with atomic_write(folder / MANIFEST) as file:
        file.write(manifest.model_dump_json(indent=1).encode())


def _entry(source: Source, strength: float, scene: Scene, folder: Path) -> ColumnEntry:
    info, consumer = source.info, consumer_of(source.info, source.file.name)
    measured = Figures() if source.run is None or source.steps is None else figures(source.run, source.steps)
    with source.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    is_ours = source.file.is_relative_to(folder)
    return ColumnEntry(
        title=source.title if tuple(scene.strengths) == (1.0,) else f"{source.title}, strength {strength:g}",
        source=source.said,
        kind=source.kind,
        norm_axis=info.norm_axis,
        ranks=info.ranks,
        strength=strength,
        file=source.file.relative_to(folder).as_posix() if is_ours else str(source.file),
        bytes=source.file.stat().st_size,
        sha256=digest,
        layout=None if info.layout == "other" else info.layout,
        consumer=consumer.key,
        program=consumer.program,
        headline=info.metadata.get(f"{OWN_PREFIX}parity"),
        steps=source.steps,
        **asdict(measured),
    )


def _with_distances(entries: Sequence[ColumnEntry], drawn: Drawn) -> tuple[ColumnEntry, ...]:
    together = [math.hypot(*(found := drawn.distances(n))) / math.sqrt(len(found)) for n in range(len(entries))]
    return tuple(entry.model_copy(update={"distance": value}) for entry, value in zip(entries, together, strict=True))


def _manifest(scene: Scene, columns: tuple[ColumnEntry, ...], drawn: Drawn, compute: Compute) -> Manifest:
    base, foreign = scene.base, foreign_to(scene.sources, scene.base)
    return Manifest(
        made_at=datetime.now(UTC).replace(microsecond=0),
        command=scene.command,
        base=BaseEntry(
            name=scene.model.base,
            family=base.modules.family.name,
            sha256=base.sha256,
            device=str(compute.device),
            dtype=str(compute.dtype).removeprefix("torch."),
        ),
        columns=columns,
        rows=tuple(
            RowEntry(label=label, **asdict(shot)) for label, shot in zip(labels(scene.shots), scene.shots, strict=True)
        ),
        cells=drawn.cells,
        analysis=analyze_sources(scene.sources, base),
        notes=notes_on(columns, [source.title for source in foreign]),
    )
