"""What the draft says that concerns pictures: the set that is being prepared, and how it would be trained."""

from __future__ import annotations

from functools import lru_cache

from app.draft import Draft, DraftFile
from app.image_sets import ImageSets, NoSuchSetError, StoredSet
from app.studio import Studio
from trainer.config import DataConfig
from trainer.config_errors import ConfigError
from trainer.config_io import load_config
from trainer.devices import read_driver

FIRST_ON_A_CARD, FIRST_WITHOUT = "sd15-subject-dora", "starter-dora"  # until one is chosen
ABOUT_PICTURES = ("data.resolution_px", "data.bucket_step_px", "data.bucket_ratio", "data.smallest_side_px",
                  "data.longest_ratio", "model.base")  # fmt: skip


def chosen_set(studio: Studio) -> StoredSet | None:
    return set_of(studio, DraftFile(studio.home).read())


def set_of(studio: Studio, draft: Draft) -> StoredSet | None:
    """The set of the draft; the first one while none was chosen, None where there is none at all."""
    sets = ImageSets(studio.sets)
    try:
        return sets.find(draft.set_id)
    except NoSuchSetError:
        return next(iter(sets.list()), None)


def choose_set(studio: Studio, set_id: str) -> None:
    DraftFile(studio.home).choose_set(set_id)


def first_preset() -> str:
    """Until a person chooses: what this machine can train."""
    return FIRST_ON_A_CARD if read_driver().cards else FIRST_WITHOUT


def draft_training(studio: Studio) -> tuple[DataConfig, str]:
    """The data settings and the base model; those of the preset where what is typed makes no sense yet."""
    draft = DraftFile(studio.home).read()
    typed = tuple(f"{key}={text}" for key, text in draft.values.items() if key in ABOUT_PICTURES)
    preset = draft.preset or first_preset()
    for source, overrides in ((preset, typed), (preset, ()), (FIRST_WITHOUT, ())):
        try:
            return _settings(source, overrides)
        except ConfigError:
            continue
    raise AssertionError("the first preset ships with the program")


@lru_cache(maxsize=64)
def _settings(preset: str, overrides: tuple[str, ...]) -> tuple[DataConfig, str]:
    config = load_config(preset, ["data.folder=.", *overrides])
    return config.data, config.model.base
