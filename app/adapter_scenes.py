"""Pictures that were drawn with a file: the run's newest samples and the comparisons that it takes part in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.adapter_files import AdapterFile
from app.comparisons import comparisons
from app.media import media_url
from app.run_settings import settings_of
from app.studio import Studio
from app.workflow import Workflow, embedded, why_not, workflow
from dora_core.errors import FileFormatError
from dora_core.rendering import COMFYUI, rendering
from trainer.base_choices import as_chosen
from trainer.base_files import BaseFacts, look_up
from trainer.compare.manifest import read_manifest
from trainer.failures import ExplainedError
from trainer.shot import Shot

MOST_COMPARISONS = 5
MOST_PICTURES = 60


@dataclass(frozen=True)
class Drawn:
    """`key`: the picture's path below the home."""

    key: str
    picture: Path
    shot: Shot
    strength: float
    where: str


def drawn_with(studio: Studio, file: AdapterFile) -> list[Drawn]:
    found = [*_samples(studio, file), *_cells(studio, file)]
    return [drawn for drawn in found if drawn.picture.is_file()][:MOST_PICTURES]


def offer(studio: Studio, file: AdapterFile) -> dict[str, Any]:
    """What a workflow can be made of: `why` says why there is none, `pictures` what it would draw."""
    base = _base(file)
    why = base if isinstance(base, str) else why_not(base) or _why_not_exact(file)
    pictures = [] if why else drawn_with(studio, file)
    if not why and not pictures:
        why = "No picture was drawn with this file yet: draw a comparison first."
    return {
        "why": why,
        "pictures": [
            {
                "key": drawn.key,
                "label": f"{drawn.shot.prompt}, seed {drawn.shot.seed} ({drawn.where})",
                "url": media_url(studio, drawn.picture, 320),
            }
            for drawn in pictures
        ],
    }


def workflow_for(studio: Studio, file: AdapterFile, key: str) -> tuple[Drawn, Workflow]:
    """The workflow of one of the pictures. Raises ExplainedError where there is none."""
    base = _base(file)
    why = base if isinstance(base, str) else why_not(base) or _why_not_exact(file)
    drawn = next((each for each in drawn_with(studio, file) if each.key == key), None)
    config = settings_of(file.run)
    if why or drawn is None or config is None or isinstance(base, str):
        raise ExplainedError(why or "This picture is not there (any more).", "")
    model = config.model
    return drawn, workflow(base, file.path.name, drawn.shot, drawn.strength, clip_skip=model.clip_skip, vae=model.vae)


def picture_with_workflow(drawn: Drawn, made: Workflow) -> bytes:
    return embedded(drawn.picture, made)


def _base(file: AdapterFile) -> BaseFacts | str:
    """Why it is not known, in a sentence."""
    config = settings_of(file.run)
    if config is None:
        return "The settings of this file's run cannot be read."
    try:
        return as_chosen(look_up(config.model.base, config.model.revision), config.model)
    except (FileFormatError, OSError) as error:
        return f"The base model cannot be read: {error}"


def _why_not_exact(file: AdapterFile) -> str:
    info = file.info
    if isinstance(info, str) or info.layout == "other":
        return "This is no file that ComfyUI reads."
    if COMFYUI not in rendering(info.layout, info.norm_axis).exact:
        return "ComfyUI does not render this file as it was trained: export the run for ComfyUI."
    return ""


def _samples(studio: Studio, file: AdapterFile) -> Iterator[Drawn]:
    folders = sorted(file.run.samples_dir.glob("step-*/samples.json"))[-1:]
    for listing in folders:
        try:
            rows = json.loads(listing.read_text(encoding="utf-8"))
            for row in rows:
                picture = listing.parent / Path(row.pop("file")).name
                yield Drawn(_key(studio, picture), picture, Shot(**row), 1.0, f"sample, {listing.parent.name}")
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # being written again, or of another version


def _cells(studio: Studio, file: AdapterFile) -> Iterator[Drawn]:
    sha256 = file.sha256
    with_it = [found for found, listed in comparisons(studio) if sha256 is not None and sha256 in listed.sha256]
    for found in with_it[:MOST_COMPARISONS]:
        try:
            manifest = read_manifest(found.folder)
        except (OSError, ValidationError):
            continue
        for number, column in enumerate(manifest.columns):
            if column.sha256 != sha256:
                continue
            for place, row in enumerate(manifest.rows):
                picture = found.folder / manifest.cell(place, number).picture
                shot = Shot(**row.model_dump(exclude={"label"}))
                where = f"comparison of {manifest.made_at:%Y-%m-%d %H:%M}, strength {column.strength:g}"
                yield Drawn(_key(studio, picture), picture, shot, column.strength or 0.0, where)


def _key(studio: Studio, picture: Path) -> str:
    return picture.relative_to(studio.home.path).as_posix()
