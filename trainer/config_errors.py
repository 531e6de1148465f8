"""What is wrong with a config, in sentences: the key as it was written, the value, what to write instead."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, to_jsonable_python

from trainer.config import CONFIG_VERSION, RunConfig


@dataclass(frozen=True)
class Problem:
    """One thing to change. `key` is dotted (``train.steps``), empty where no single key is to blame."""

    key: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class ConfigError(ValueError):
    """A config that cannot be used; `problems` holds every reason."""

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = tuple(problems)
        start = f"{source}: " if source else ""
        super().__init__("\n".join(f"{start}{problem}" for problem in self.problems))


@dataclass(frozen=True)
class Setting:
    """One declared setting, with its section's model."""

    key: str
    field: FieldInfo
    section: type[BaseModel]

    @cached_property
    def schema(self) -> Mapping[str, Any]:
        """Its JSON schema, without the 'or null' of optional ones."""
        schema = self.section.model_json_schema()["properties"][self.key.rpartition(".")[2]]
        options = schema.get("anyOf", [schema])
        return next(option for option in options if option.get("type") != "null")

    @property
    def is_text(self) -> bool:
        """Whether it is text of any kind: a path or a choice of words as well."""
        return self.schema.get("type") == "string"

    @property
    def is_list(self) -> bool:
        return self.schema.get("type") == "array"

    @property
    def expectation(self) -> str:
        """What to write, in words: 'a whole number from 1 to 256'."""
        return _in_words(self.schema)

    @property
    def default(self) -> object:
        """As JSON has it; None where it must be given, or is absent."""
        return None if self.field.is_required() else to_jsonable_python(self.field.get_default())

    @property
    def default_text(self) -> str:
        """The default as TOML has it; empty where it must be given, or is absent."""
        return "" if self.default is None else json.dumps(self.default)  # TOML and JSON write these alike


def iter_settings(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of declaration, sections opened."""
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            yield from iter_settings(section, f"{prefix}{name}.")
        else:
            yield Setting(f"{prefix}{name}", field, model)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section, optional ones included."""
    annotation = field.annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


SETTINGS: Mapping[str, Setting] = {setting.key: setting for setting in iter_settings()}
_SECTIONS = {key.rpartition(".")[0]: key for key in SETTINGS if "." in key}  # with a setting of each, to show


def _optional_sections(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            if field.annotation is not section:
                yield f"{prefix}{name}"
            yield from _optional_sections(section, f"{prefix}{name}.")


OPTIONAL_SECTIONS = frozenset(_optional_sections(RunConfig))  # that may be absent as a whole


def unknown_key(key: str) -> Problem:
    if key in _SECTIONS:
        return Problem(key, f"{key} is a section: set one of its settings, such as {_SECTIONS[key]}")
    return Problem(key, f"{key} is no setting{_nearest(key)}")


def explain(error: ValidationError) -> ConfigError:
    """The same error in our words, one problem per key."""
    return ConfigError([_problem(details) for details in error.errors(include_url=False)])


def _problem(details: ErrorDetails) -> Problem:
    key = ".".join(part for part in details["loc"] if isinstance(part, str))
    value = details["input"]
    if details["type"] == "extra_forbidden":
        return unknown_key(key)
    if key == "config_version":
        return Problem(key, _about_version(value))
    if details["type"] == "missing" and isinstance(details["loc"][-1], str):
        needed = SETTINGS[key].expectation if key in SETTINGS else "its settings"
        return Problem(key, f"{key} is missing: give {needed}")
    if key in SETTINGS:
        return Problem(key, f"{key} is {_shown(value)}: give {SETTINGS[key].expectation}")
    if not key:
        text = details["msg"].removeprefix("Value error, ")
        return Problem(text.split(" ", 1)[0], text)
    return Problem(key, f"{key} is {_shown(value)}: it is a section, give a table of settings")


def _about_version(value: object) -> str:
    if isinstance(value, int) and value > CONFIG_VERSION:
        return (
            f"config_version is {value}, this dora-studio knows {CONFIG_VERSION}: the file is from a newer one, update"
        )
    return f"config_version is {_shown(value)}: give {CONFIG_VERSION}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(key: str) -> str:
    """By the whole key; else by its last word alone, which may belong to another section or to several."""
    close = difflib.get_close_matches(key, [*SETTINGS, *_SECTIONS], n=1, cutoff=0.7)
    if not close:
        names = {known.rpartition(".")[2] for known in SETTINGS}
        near = difflib.get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.7)
        close = [known for known in SETTINGS if known.rpartition(".")[2] in near]
    return f": did you mean {' or '.join(close)}?" if close else ": `dora-studio presets settings` lists all"


def _in_words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {_in_words(schema['prefixItems'][0])}"
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "integer" | "number":
            return _number_in_words(schema)
        case "array":
            most = f"at most {schema['maxItems']} " if "maxItems" in schema else ""
            return f"a list of {most}texts"
    if "pattern" in schema:
        return "a colour such as #ffffff"
    return "a path" if schema.get("format") == "path" else "text"


def _number_in_words(schema: Mapping[str, Any]) -> str:
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    multiple = f", a multiple of {schema['multipleOf']}," if "multipleOf" in schema else ""
    if "minimum" in schema and "maximum" in schema:
        return f"{noun}{multiple} from {_plain(schema['minimum'])} to {_plain(schema['maximum'])}"
    low = f"at least {schema['minimum']:g}" if "minimum" in schema else f"above {schema['exclusiveMinimum']:g}"
    high = f"at most {schema['maximum']:g}" if "maximum" in schema else f"below {schema['exclusiveMaximum']:g}"
    return f"{noun} {low} and {high}"


def _plain(number: float) -> str:
    return f"{number:g}" if number != int(number) else str(int(number))
