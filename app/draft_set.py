"""Which image set is being prepared: part of the draft, so every tab and the next start of the server know it."""

from __future__ import annotations

from app.image_sets import ImageSets, NoSuchSetError, StoredSet
from app.studio import Studio
from dora_core.atomic import atomic_write
from trainer.config import DataConfig
from trainer.config_io import load_config


def chosen_set(studio: Studio) -> StoredSet | None:
    """The set of the draft; the first one while none was chosen, None where there is none at all."""
    sets = ImageSets(studio.sets)
    file = studio.home.path / "draft-set.txt"
    try:
        return sets.find(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NoSuchSetError):
        return next(iter(sets.list()), None)


def choose_set(studio: Studio, set_id: str) -> None:
    with atomic_write(studio.home.path / "draft-set.txt") as out:
        out.write(set_id.encode())


def draft_training(studio: Studio) -> tuple[DataConfig, str]:
    """The data settings and the base model that the draft has."""
    config = load_config("starter-dora", [f"data.folder={studio.sets}"])
    return config.data, config.model.base
