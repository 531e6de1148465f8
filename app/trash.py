"""What was thrown away: runs and image sets, which can be brought back, and pictures and files taken out of those that
are still there. All of it ends when a person empties the trash, and never by itself."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.adapter_files import TRASH
from app.comparisons import size_in_words
from app.image_sets import REMOVED, ImageSets
from app.live import Shown
from app.run_settings import settings_of
from app.set_file import SetFile
from app.studio import Studio
from trainer.failures import ExplainedError, classify
from trainer.run_dir import RunDir

Kind = Literal["run", "set", "part"]


@dataclass(frozen=True)
class Thrown:
    """A folder of the trash. `id` brings a run or a set back; a part, by the page that threw it, has none."""

    kind: Kind
    name: str
    folder: Path
    id: str = ""


def count(studio: Studio, shown: Shown) -> dict[str, int]:
    """The value of the trash's widget: how many runs and sets are in it. Asked every second, so nothing is read."""
    return {"count": len(_folders(studio.store.trash)) + len(_folders(ImageSets(studio.sets).trash))}


def view(studio: Studio) -> dict[str, Any]:
    items = thrown(studio)
    sizes = [_bytes(item.folder) for item in items]
    return {
        "items": [
            {"kind": item.kind, "id": item.id, "name": item.name, "size": size_in_words(size)}
            for item, size in zip(items, sizes, strict=True)
        ],
        "size": size_in_words(sum(sizes)),
    }


def thrown(studio: Studio) -> list[Thrown]:
    sets = ImageSets(studio.sets)
    runs = [Thrown("run", _run_name(RunDir(path)), path, path.name) for path in _folders(studio.store.trash)]
    whole = [Thrown("set", SetFile.read(path).name, path, path.name) for path in _folders(sets.trash)]
    pictures = [
        Thrown("part", f"pictures of {SetFile.read(studio.sets / path.name).name}", path)
        for path in _folders(studio.sets / REMOVED)
    ]
    files = [
        Thrown("part", f"files of {_run_name(RunDir(path))}", RunDir(path).exports_dir / TRASH)
        for path in _folders(studio.home.runs)
    ]
    return [*runs, *whole, *(part for part in (*pictures, *files) if _has_any(part.folder))]


def empty(studio: Studio) -> str:
    """Delete it all for good; how much room that made. Raises ExplainedError for what cannot be deleted."""
    items = thrown(studio)
    freed = sum(_bytes(item.folder) for item in items)
    for item in items:
        try:
            shutil.rmtree(item.folder)
        except OSError as error:
            failure = classify(error)
            raise ExplainedError(f"{item.name} cannot be deleted. {failure.sentence}", failure.fix) from None
    return size_in_words(freed)


def _run_name(run: RunDir) -> str:
    config = settings_of(run)
    return config.name if config else run.id


def _folders(root: Path) -> list[Path]:
    """By name, so the oldest run first."""
    try:
        with os.scandir(root) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _has_any(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
