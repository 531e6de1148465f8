"""Settings that are known to work, one TOML file per purpose: a head that says for what, then a config's sections."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from trainer.config import renewed
from trainer.config_errors import ConfigError, Problem
from trainer.config_sections import Section
from trainer.home import Home

SHIPPED = Path(__file__).parent.parent / "presets"


def preset_folders(home: Home) -> tuple[Path, ...]:
    """Where presets lie: those that ship, then the user's own, which win."""
    return SHIPPED, home.path / "presets"


class StepRule(Section):
    """How many steps a set of pictures gets."""

    per_picture: int = Field(ge=1)
    least: int = Field(ge=1)
    most: int = Field(ge=1)

    def for_pictures(self, count: int) -> int:
        return min(max(self.per_picture * count, self.least), self.most)


class PresetHead(Section):
    """The table [preset] of a preset file."""

    title: str = Field(min_length=1)
    summary: str = Field(min_length=1)
    family: str = Field(min_length=1)  # of the base models that it suits
    steps: StepRule | None = None  # absent: the file sets train.steps


@dataclass(frozen=True)
class Preset:
    name: str  # the file's, without .toml
    head: PresetHead
    values: dict[str, Any]  # sections, as in a config

    @property
    def steps(self) -> StepRule | None:
        return self.head.steps


@dataclass(frozen=True)
class BrokenPreset:
    path: Path
    reason: str


@dataclass(frozen=True)
class PresetList:
    """Every preset file found; those that cannot be read are named with the reason, and stop nothing."""

    presets: tuple[Preset, ...]
    broken: tuple[BrokenPreset, ...]


def list_presets(folders: Sequence[Path]) -> PresetList:
    """The presets in `folders`, by name; a later folder's wins over an earlier one's of the same name."""
    presets: dict[str, Preset] = {}
    broken: list[BrokenPreset] = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.toml"))):
        try:
            presets[path.stem] = read_preset(path)
        except ConfigError as error:
            broken.append(BrokenPreset(path, str(error)))
    return PresetList(tuple(presets[name] for name in sorted(presets)), tuple(broken))


def find_preset(name: str, folders: Sequence[Path]) -> Preset:
    """The preset of that name; raises ConfigError with the nearest one, or with what is wrong with its file."""
    for path in (folder / f"{name}.toml" for folder in reversed(folders)):
        if path.is_file():
            return read_preset(path)
    names = [preset.name for preset in list_presets(folders).presets]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    raise ConfigError([Problem("preset", f"preset is {name!r}, neither a file nor a preset: {hint}")])


def read_preset(path: Path) -> Preset:
    """The preset in a file; raises ConfigError."""
    try:
        values = renewed(tomllib.loads(path.read_text(encoding="utf-8")))
        return Preset(path.stem, PresetHead.model_validate(values.pop("preset", {})), values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("", f"{path.name} is no valid TOML, {error}: correct that place")]) from None
    except ValidationError as error:
        fields = ", ".join(f"{'.'.join(map(str, e['loc']))} ({e['msg'].lower()})" for e in error.errors())
        raise ConfigError([Problem("preset", f"{path.name}: its table [preset] needs {fields}")]) from None
