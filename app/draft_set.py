"""Which image set is being prepared: part of the draft, so every tab and the next start of the server know it."""

from __future__ import annotations

from app.draft import DraftFile
from app.image_sets import ImageSets, NoSuchSetError, StoredSet
from app.studio import Studio
from trainer.config import DataConfig
from trainer.config_io import load_config


def chosen_set(studio: Studio) -> StoredSet | None:
    """The set of the draft; the first one while none was chosen, None where there is none at all."""
    sets = ImageSets(studio.sets)
    try:
        return sets.find(DraftFile(studio.home).read().set_id)
    except NoSuchSetError:
        return next(iter(sets.list()), None)


def choose_set(studio: Studio, set_id: str) -> None:
    DraftFile(studio.home).choose_set(set_id)


def draft_training(studio: Studio) -> tuple[DataConfig, str]:
    """The data settings and the base model that the draft has."""
    config = load_config("starter-dora", [f"data.folder={studio.sets}"])
    return config.data, config.model.base
