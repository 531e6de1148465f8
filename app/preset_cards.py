"""The cards of the presets: for what, how much memory of a card, how long; and the presets that cannot be read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from app.draft_set import first_preset
from app.setup_form import steps_by_rule
from app.studio import Studio
from dora_core.errors import FileFormatError
from trainer.base_files import BaseFacts, look_up
from trainer.config import RunConfig
from trainer.config_errors import ConfigError
from trainer.config_io import config_from
from trainer.devices import read_driver
from trainer.presets import Preset, list_presets, preset_folders
from trainer.speed import expected_speed
from trainer.twins import configs_of
from trainer.vram import training_memory

MIB, GIB = 2**20, 2**30


@lru_cache(maxsize=4)
def preset_cards(studio: Studio, folder: Path, pictures: int, seen: object) -> list[dict[str, Any]]:
    """Those that this machine can train first. `folder`, `pictures`: what they would train on, and how many there are,
    other sets' among them; `seen`: changes with the presets and the pictures."""
    found = {preset.name: preset for preset in list_presets(preset_folders(studio.home)).presets}
    first = found.get(first_preset())
    before = [
        name for name, preset in found.items() if first and preset.values.get("model") == first.values.get("model")
    ]
    return [_card(studio, found[name], folder, pictures) for name in dict.fromkeys([*before, *found])]


@lru_cache(maxsize=4)
def broken_presets(studio: Studio, seen: object) -> list[dict[str, str]]:
    found = list_presets(preset_folders(studio.home)).broken
    return [{"file": str(each.path), "reason": each.reason} for each in found]


def _card(studio: Studio, preset: Preset, folder: Path, pictures: int) -> dict[str, Any]:
    card = {"name": preset.name, "title": preset.head.title, "summary": preset.head.summary, "figures": []}
    try:
        steps = [f"{key}={text}" for key, text in steps_by_rule(preset, pictures).items()]
        config = config_from({"preset": preset.name}, [f"data.folder={folder}", *steps], studio.home)
    except ConfigError as error:
        return card | {"summary": f"{preset.head.summary} Needs a correction: {error}"}
    return card | {"figures": [*_memory(config), *_time(studio, config)]}


def _memory(config: RunConfig) -> list[str]:
    """Of a card, even where there is none: that is what one would be bought for."""
    try:
        base = look_up(config.model.base, config.model.revision)
    except FileFormatError:
        return ["base model missing"]
    return [f"{size_in_words(memory_on_card(config, base))} VRAM"] if base.family else []


def memory_on_card(config: RunConfig, base: BaseFacts) -> int:
    """Bytes, of a twin run the larger one's; needs a known family."""
    precision = "bf16" if config.train.precision == "auto" else config.train.precision
    return max(training_memory(run, base, precision, on_card=True).peak_bytes for run in configs_of(config))


def _time(studio: Studio, config: RunConfig) -> list[str]:
    speed = expected_speed(studio.home, config, "cuda" if read_driver().cards else "cpu")
    if speed is None:
        return [f"{config.train.steps:,} steps"]
    return [f"{config.train.steps:,} steps", f"about {in_words(speed.seconds_per_step * config.train.steps)}"]


def size_in_words(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / MIB:.0f} MiB"


def in_words(seconds: float) -> str:
    """As one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
