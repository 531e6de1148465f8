"""Settings as fields of a form, and what is typed into them as ``key=value`` of the command line.

Every field comes from the one declaration of its setting. What is typed stays text until the command line's own reader
takes it, so the form can neither accept nor refuse what `dora-studio train` would not.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tomlkit
from pydantic import BaseModel

from trainer.config import RunConfig
from trainer.config_errors import OPTIONAL_SECTIONS, SETTINGS, Setting, section_of

ON, OFF = "true", "false"
LONGEST = {"text": 4000, "lines": 20_000}  # characters; of anything else
LONGEST_OTHER = 80
BETWEEN_NUMBERS = re.compile(r"[\s,;x\u00d7\[\]()]+")  # "0.9, 0.999" and "512 x 768"
Control = Literal["text", "lines", "switch", "choice", "number", "numbers"]


@dataclass(frozen=True)
class Field:
    """What the page needs to show a setting, besides its value."""

    key: str
    section: str
    title: str
    help: str
    expects: str  # what to write, in words
    control: Control
    choices: tuple[str, ...]
    is_optional: bool  # empty means absent


def fields() -> list[Field]:
    return [field_of(setting) for setting in SETTINGS.values()]


def field_of(setting: Setting) -> Field:
    control = control_of(setting)
    choices = tuple(map(str, setting.schema.get("enum", ())))
    if control == "choice" and not choices:
        choices = (ON, OFF) if setting.schema.get("type") == "boolean" else (str(setting.schema["const"]),)
    return Field(
        key=setting.key,
        section=setting.key.rpartition(".")[0],
        title=setting.field.title or setting.key,
        help=setting.field.description or "",
        expects=setting.expectation,
        control=control,
        choices=("", *choices) if choices and is_optional(setting) else choices,
        is_optional=is_optional(setting),
    )


def control_of(setting: Setting) -> Control:
    schema = setting.schema
    if "enum" in schema or "const" in schema:
        return "choice"
    if setting.is_table:
        return "lines"
    if setting.is_list:
        return "numbers" if "prefixItems" in schema else "lines"
    if schema.get("type") == "boolean":
        return "choice" if is_optional(setting) else "switch"
    return "text" if setting.is_text else "number"


def is_optional(setting: Setting) -> bool:
    return not setting.field.is_required() and setting.field.get_default() is None


def sections() -> list[dict[str, Any]]:
    """Every section with its fields, in the order of declaration; the settings above all sections first."""
    found: dict[str, list[Field]] = {}
    for field in fields():
        found.setdefault(field.section, []).append(field)
    return [_section(key) | {"fields": [asdict(field) for field in own]} for key, own in found.items()]


def _section(key: str) -> dict[str, Any]:
    """Optional ones have a switch, with title and help; the others go by their name."""
    if key not in OPTIONAL_SECTIONS:
        return {"key": key, "is_optional": False, "title": key.replace(".", ", ").capitalize() or "Run", "help": ""}
    *above, name = key.split(".")
    model = RunConfig
    for part in above:
        model = section_of(model.model_fields[part]) or model
    field = model.model_fields[name]
    return {"key": key, "is_optional": True, "title": field.title or key, "help": field.description or ""}


def cleaned(key: str, text: str) -> str:
    """As it may be kept: no control characters, and no longer than any value can be."""
    control = control_of(SETTINGS[key]) if key in SETTINGS else "switch"
    kept = "".join(sign for sign in text if sign.isprintable() or sign == "\n" or sign == "\t")
    kept = kept.encode("utf-8", "ignore").decode()
    return kept[: LONGEST.get(control, LONGEST_OTHER)]


def texts_of(values: Mapping[str, Any]) -> dict[str, str]:
    """What a form shows of nested `values` over the defaults, by key; optional sections by theirs."""
    texts = {
        key: as_text(setting, _value(values, key, None if setting.field.is_required() else setting.field.get_default()))
        for key, setting in SETTINGS.items()
    }
    return texts | {key: ON if _value(values, key, None) is not None else OFF for key in OPTIONAL_SECTIONS}


def texts_of_config(config: RunConfig) -> dict[str, str]:
    return texts_of(config.model_dump(mode="json", exclude_none=True))


def as_text(setting: Setting, value: object) -> str:
    """A value as one would type it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return ON if value else OFF
    if isinstance(value, dict):
        return "\n".join(f"{json.dumps(name, ensure_ascii=False)} = {_plain(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        if setting.entry is not None:
            return "\n".join(_inline_table(setting.entry, each) for each in value)
        return _lines(value) if control_of(setting) == "lines" else ", ".join(map(_plain, value))
    return _plain(value)


def override(key: str, text: str) -> str:
    """`text`, as typed, as the command line takes it."""
    setting = SETTINGS[key]
    control = control_of(setting)
    if not text.strip() and is_optional(setting):
        return f"{key}=none"
    match control:
        case "lines" if setting.is_table:
            return f"{key}={_toml_table(text)}"
        case "lines" if setting.entry is not None:
            return f"{key}={_toml_tables(text)}"
        case "lines":
            return f"{key}={_toml_list(text)}"
        case "numbers":
            return f"{key}=[{', '.join(filter(None, BETWEEN_NUMBERS.split(text)))}]"
        case "text" if text.strip() == "none" or text.strip()[:1] in ("'", '"'):
            return f"{key}={json.dumps(text, ensure_ascii=False)}"
    return f"{key}={text.strip()}"


def overrides(typed: Mapping[str, str], preset: Mapping[str, str]) -> list[str]:
    """What a form comes to: `typed` by key, over `preset`, the texts of what it stands on.

    Settings of an optional section that is off are kept in the form and left out here; one that is on names those that
    it cannot be without.
    """
    shown = {**preset, **typed}
    off = {key for key in OPTIONAL_SECTIONS if shown[key] != ON}
    found = [f"{key}=none" for key in sorted(off) if preset[key] == ON]
    for key, setting in SETTINGS.items():
        section = key.rpartition(".")[0]
        is_needed = section in OPTIONAL_SECTIONS and preset[section] != ON and setting.field.is_required()
        if section not in off and (key in typed or is_needed):
            found.append(override(key, typed.get(key, "")))
    return found


def _value(values: Mapping[str, Any], key: str, default: object) -> object:
    found: object = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return default
        found = found[part]
    return found


def _plain(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _lines(value: Sequence[object]) -> str:
    """One a line where that reads back the same, else as TOML writes lists."""
    lines = "\n".join(map(str, value))
    as_read = _toml_list(lines)
    written = json.dumps([str(each) for each in value], ensure_ascii=False)
    return lines if as_read == written else written


def _toml_list(text: str) -> str:
    if text.strip().startswith("[") and _is_toml_list(text):
        return text.strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return json.dumps(lines, ensure_ascii=False)


def _inline_table(model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """What differs from the defaults of `model`, on one line of TOML."""
    table = tomlkit.inline_table()
    table.update({name: value for name, value in values.items() if value != model.model_fields[name].default})
    return table.as_string()


def _toml_tables(text: str) -> str:
    """One a line, or a whole list."""
    if text.strip().startswith("["):
        return text.strip()
    return f"[{', '.join(line.strip().rstrip(',') for line in text.splitlines() if line.strip())}]"


def _toml_table(text: str) -> str:
    """One a line, quotes or none around the name, or a whole table."""
    if text.strip().startswith("{"):
        return text.strip()
    pairs = (line.strip().rstrip(",").rpartition("=") for line in text.splitlines() if line.strip())
    return f"{{{', '.join(f'{_quoted(name.strip())} = {value.strip()}' for name, _, value in pairs)}}}"


def _quoted(name: str) -> str:
    return name if name[:1] in ("'", '"') else json.dumps(name, ensure_ascii=False)


def _is_toml_list(text: str) -> bool:
    try:
        return isinstance(tomllib.loads(f"value = {text}")["value"], list)
    except (tomllib.TOMLDecodeError, RecursionError):
        return False
