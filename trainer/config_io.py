"""Configs in and out: TOML files, presets, `key=value` on the command line. What was written reads back equal."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tomlkit
from pydantic import ValidationError

from trainer.config import RunConfig, renewed
from trainer.config_data import ALPHA
from trainer.config_errors import OPTIONAL_SECTIONS, SETTINGS, ConfigError, Problem, Setting, explain, unknown_key
from trainer.data.scan import picture_files
from trainer.home import Home
from trainer.presets import Preset, find_preset, preset_folders

Values = dict[str, Any]  # sections as nested dictionaries, as TOML reads them


def load_config(source: str | Path, overrides: Sequence[str] = (), home: Home | None = None) -> RunConfig:
    """The config in the TOML file `source`, or of the preset of that name, with ``key=value`` overrides on top.

    A file may begin with ``preset = "name"``: what it does not set comes from there. Where neither says how many steps,
    the preset's rule takes them from the number of pictures. Relative paths start at the file's folder, those of
    overrides at the working directory. Raises ConfigError with every problem found.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            values = _anchored(read_toml(path), path.resolve().parent)
            return config_from(values, overrides, home)
        except ConfigError as error:
            raise ConfigError(error.problems, str(path)) from None
    return config_from({"preset": str(source)}, overrides, home)


def config_from(values: Mapping[str, Any], overrides: Sequence[str] = (), home: Home | None = None) -> RunConfig:
    """The config of nested `values`, which may name a preset of `home` under ``preset``, and overrides.

    Raises ConfigError.
    """
    own = copy.deepcopy(dict(values))
    name = own.pop("preset", None)
    for override in overrides:
        key, _, text = override.partition("=")
        if key.strip() == "preset":
            name = text.strip()
    settings = [override for override in overrides if override.partition("=")[0].strip() != "preset"]
    preset = None if name is None else find_preset(str(name), preset_folders(home or Home.find()))
    merged = own if preset is None else _merged(preset.values, own)
    _override(merged, settings)
    if preset is not None:
        _take_steps_from_pictures(merged, preset)
    return parse_config(merged)


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """The config of nested `values`, nothing added; raises ConfigError."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error) from None


def read_toml(path: Path) -> Values:
    """The tables of a TOML file; raises ConfigError where there is none or it cannot be read as TOML."""
    try:
        return renewed(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise ConfigError([Problem("", "there is no such file")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("", f"it is no valid TOML, {error}: correct that place")]) from None


def dump_config(config: RunConfig) -> str:
    """The whole config as TOML; settings that are absent (None) are left out."""
    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True))


def save_config(config: RunConfig, path: Path) -> None:
    path.write_text(dump_config(config), encoding="utf-8")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(values: Values, overrides: Sequence[str]) -> None:
    """Set what the overrides say in place; their relative paths are the working directory's."""
    problems: list[Problem] = []
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        if not equals:
            problems.append(Problem(key, f"{override!r} has no '=': write key=value, such as train.steps=500"))
        elif key in OPTIONAL_SECTIONS and text == "none":
            _set(values, key, None)
        elif key not in SETTINGS:
            problems.append(unknown_key(key))
        else:
            _set(values, key, _parse_value(text, SETTINGS[key]))
    if problems:
        raise ConfigError(problems)


def _set(values: Values, key: str, value: object) -> None:
    """None takes the setting out, so that its default holds."""
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    if value is None:
        values.pop(name, None)
    else:
        values[name] = _anchored_value(key, value, Path.cwd())


def _parse_value(text: str, setting: Setting) -> object:
    """As TOML would read it; text needs no quotes, one text stands for a list of one, and 'none' for absent."""
    if text == "none":
        return None
    is_quoted = text[:1] in ("'", '"')
    if setting.is_text and not is_quoted:
        return text
    try:
        value = cast(object, tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        value = text
    return [value] if setting.is_list and isinstance(value, str) else value


_FOLDERS = ("data.folder", "data.prior.folder", "data.mask.source")
_MODELS = ("model.base", "model.vae")  # a folder, a file, or the name of a model elsewhere
_TABLES: Mapping[str, Sequence[str]] = {"data.more": ("folder", "mask.source")}  # folders in the tables of a list


def _anchored(values: Values, root: Path, keys: Sequence[str] = (*_FOLDERS, *_MODELS, *_TABLES)) -> Values:
    """The same values, relative paths made absolute from `root`."""
    values = copy.deepcopy(values)
    for key in keys:
        *sections, name = key.split(".")
        table: object = values
        for section in sections:
            table = cast(Values, table).get(section) if isinstance(table, dict) else None
        if isinstance(table, dict) and name in table:
            table[name] = _anchored_value(key, table[name], root)
    return values


def _anchored_value(key: str, value: object, root: Path) -> object:
    if key in _TABLES and isinstance(value, list):
        tables = cast(list[object], value)
        return [_anchored(cast(Values, one), root, _TABLES[key]) if isinstance(one, dict) else one for one in tables]
    is_folder = key in _FOLDERS or key in _TABLES["data.more"]
    if not isinstance(value, str) or not value or value == ALPHA or not (is_folder or key in _MODELS):
        return value
    path = root / os.path.expanduser(value)  # Path's own raises for a person that is not known
    if is_folder:
        return str(path)
    is_path = value.startswith((".", "~")) or _exists(path)
    return str(path) if is_path else value


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that a file can have
        return False


def _take_steps_from_pictures(values: Values, preset: Preset) -> None:
    """Set train.steps by the preset's rule, unless somebody did or there is no folder to count in."""
    data = values.get("data", {})
    if preset.steps is not None and "steps" not in values.get("train", {}) and isinstance(data.get("folder"), str):
        values.setdefault("train", {})["steps"] = preset.steps.for_pictures(trained_pictures(data))


def trained_pictures(data: Values) -> int:
    """How many pictures all sets have together that are learned, by a section `data` that nobody has checked yet."""
    more = data.get("more", [])
    tables = [data, *(more if isinstance(more, list) else [])]
    trained = [one for one in tables if isinstance(one, dict) and one.get("role") != "prior-prediction"]
    folders = [one["folder"] for one in trained if isinstance(one.get("folder"), str)]
    return sum(len(picture_files(Path(folder))) for folder in folders)
