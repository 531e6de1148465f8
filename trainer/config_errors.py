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
    def is_table(self) -> bool:
        """Whether it is a table whose keys are the user's."""
        return self.schema.get("type") == "object"

    @property
    def entry(self) -> type[BaseModel] | None:
        """The model of each table, where it is a list of tables."""
        inner = get_args(self.field.annotation)[:1] if get_origin(self.field.annotation) is tuple else ()
        return next((one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)), None)

    @property
    def expectation(self) -> str:
        """What to write, in words: 'a whole number from 1 to 256'."""
        return _in_words(self.schema) if self.entry is None else f"a list of tables with {', '.join(ENTRIES[self.key])}"

    @property
    def default(self) -> object:
        """As JSON has it; None where it must be given, or is absent."""
        return None if self.field.is_required() else to_jsonable_python(self.field.get_default())

    @property
    def default_text(self) -> str:
        """The default as TOML has it; empty where it must be given, or is absent."""
        return "" if self.default is None else json.dumps(self.default)  # TOML and JSON write these alike


def iter_settings(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of declaration, sections opened, behind those that lie beside them."""
    for name, field in sorted(model.model_fields.items(), key=lambda item: section_of(item[1]) is not None):
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
ENTRIES: Mapping[str, Mapping[str, Setting]] = {  # what a table may hold, of settings that are lists of tables
    key: {inner.key: inner for inner in iter_settings(entry)}
    for key, setting in SETTINGS.items()
    if (entry := setting.entry) is not None
}
TABLES = [key for key, setting in SETTINGS.items() if setting.is_table]


def _optional_sections(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            if field.annotation is not section:
                yield f"{prefix}{name}"
            yield from _optional_sections(section, f"{prefix}{name}.")


OPTIONAL_SECTIONS = frozenset(_optional_sections(RunConfig))  # that may be absent as a whole


def unknown_key(key: str, known: Mapping[str, Setting] = SETTINGS) -> Problem:
    if key in (sections := _sections(known)):
        return Problem(key, f"{key} is a section: set one of its settings, such as {sections[key]}")
    return Problem(key, f"{key} is no setting{_nearest(key, known)}")


def _sections(known: Mapping[str, Setting]) -> dict[str, str]:
    """Each with one of its settings, to show."""
    return {key.rpartition(".")[0]: key for key in known if "." in key}


def explain(error: ValidationError) -> ConfigError:
    """The same error in our words, one problem per key."""
    return ConfigError([_problem(details) for details in error.errors(include_url=False)])


def _problem(details: ErrorDetails) -> Problem:
    """Of a table in a list, `key` is that of the list: there is no other field to show it at."""
    before, number, inner = _split(details["loc"])
    if number is not None and before in ENTRIES and (inner or details["type"] == "value_error"):
        return Problem(before, f"{before}, entry {number + 1}: {_sentence(details, inner, ENTRIES[before])}")
    key = before if number is None or inner == "" else f"{before}.{inner}"
    if table := next((each for each in TABLES if key.startswith(f"{each}.")), ""):
        own = key.removeprefix(f"{table}.").removesuffix(".[key]")
        told = f"{table} has {own!r} = {_shown(details['input'])}: give {SETTINGS[table].expectation}"
        return Problem(table, told)
    sentence = _sentence(details, key, SETTINGS)
    return Problem(key if details["type"] != "value_error" else sentence.split(" ", 1)[0], sentence)


def _split(loc: tuple[int | str, ...]) -> tuple[str, int | None, str]:
    """The dotted key before the first index of a list, the index, the dotted key behind it."""
    number = next((part for part in loc if isinstance(part, int)), None)
    at = len(loc) if number is None else loc.index(number)
    before, behind = (".".join(part for part in half if isinstance(part, str)) for half in (loc[:at], loc[at:]))
    return before, number, behind


def _sentence(details: ErrorDetails, key: str, known: Mapping[str, Setting]) -> str:
    value = details["input"]
    if details["type"] == "extra_forbidden":
        return unknown_key(key, known).sentence
    if details["type"] == "value_error":  # a rule between settings, which names the first by its name in its section
        return f"{key}{'.' if key else ''}{details['msg'].removeprefix('Value error, ')}"
    if key == "config_version":
        return _about_version(value)
    if details["type"] == "missing" and isinstance(details["loc"][-1], str):
        needed = known[key].expectation if key in known else "its settings"
        return f"{key} is missing: give {needed}"
    if key in known:
        return f"{key} is {_shown(value)}: give {known[key].expectation}"
    return f"{key} is {_shown(value)}: it is a section, give a table of settings"


def _about_version(value: object) -> str:
    if isinstance(value, int) and value > CONFIG_VERSION:
        return (
            f"config_version is {value}, this dora-studio knows {CONFIG_VERSION}: the file is from a newer one, update"
        )
    return f"config_version is {_shown(value)}: give {CONFIG_VERSION}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(key: str, known: Mapping[str, Setting]) -> str:
    """By the whole key; else by its last word alone, which may belong to another section or to several."""
    close = difflib.get_close_matches(key, [*known, *_sections(known)], n=1, cutoff=0.7)
    if not close:
        names = {each.rpartition(".")[2] for each in known}
        near = difflib.get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.7)
        close = [each for each in known if each.rpartition(".")[2] in near]
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
        case "object":
            names, each = schema["propertyNames"], schema["additionalProperties"]
            return f"a table of {_in_words({'type': 'string', **names})} = {_in_words(each)}"
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
