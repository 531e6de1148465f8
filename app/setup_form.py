"""The draft together with what it stands on, a preset and an image set, and what a person does to it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from app.draft import Draft, DraftFile
from app.draft_set import first_preset, set_of
from app.form import OFF, cleaned, override, overrides, texts_of, texts_of_config
from app.image_sets import StoredSet
from app.studio import Studio
from dora_core.atomic import atomic_write
from trainer.base_files import look_up
from trainer.config import RunConfig
from trainer.config_errors import OPTIONAL_SECTIONS, SETTINGS, ConfigError
from trainer.config_io import config_from, trained_pictures
from trainer.failures import ExplainedError
from trainer.presets import Preset, find_preset, list_presets, preset_folders
from trainer.run_dir import slug

MORE = "data.more"
# Not part of a recipe: they stay when another preset is chosen, and no preset is saved with them.
OWN = ("name", "data.folder", "data.instance_prompt", "data.trigger", MORE, "data.mask.source",
       "data.prior.class_prompt", "data.prior.folder", "sample.prompts", "sample.negative")  # fmt: skip


@dataclass(frozen=True)
class Form:
    """`below`: the texts of the preset and the set, which the draft's own lie on."""

    draft: Draft
    preset: str
    images: StoredSet | None
    below: Mapping[str, str]
    folder: Path  # of the pictures; one that is not there while nobody has said which
    more: Sequence[Mapping[str, Any]] | None  # the sets beside it; None where what is typed cannot be read
    pictures: int  # that are learned, of all sets

    @property
    def typed(self) -> dict[str, str]:
        """What differs from `below`; keys that there are no more are left alone."""
        known = (*SETTINGS, *OPTIONAL_SECTIONS)
        texts = self.draft.values
        return {key: texts[key] for key in known if key in texts and texts[key] != self.below[key]}

    @property
    def overrides(self) -> list[str]:
        """Of the preset, as the command line takes them; the set's folder and prompt are among them."""
        own = {key: self.below[key] for key in ("data.folder", "data.instance_prompt") if self.images}
        given = {key: text for key, text in (own | self.typed).items() if text or key in self.typed}
        return overrides(given, self.below)

    def config(self, studio: Studio) -> RunConfig:
        """Raises ConfigError."""
        return config_from({"preset": self.preset}, self.overrides, studio.home)


def read_form(studio: Studio) -> Form:
    return form_of(studio, DraftFile(studio.home).read())


def form_of(studio: Studio, draft: Draft) -> Form:
    """Of a preset that is broken or gone, the defaults lie below; `config` says what is wrong with it."""
    name = draft.preset or first_preset()
    images = None if "data.folder" in draft.values else set_of(studio, draft)
    try:
        preset = find_preset(name, preset_folders(studio.home))
    except ConfigError:
        preset = None
    folder = images.folder if images else Path(draft.values.get("data.folder") or "/nowhere")
    below = texts_of(preset.values if preset else {})
    more = _entries(draft.values.get(MORE, below[MORE]))
    pictures = trained_pictures({"folder": str(folder), "more": more or []})
    below |= steps_by_rule(preset, pictures) if preset else {}
    if images:
        below["data.folder"] = str(images.folder)
        below["data.instance_prompt"] = images.file.prompt or below["data.instance_prompt"]
    return Form(draft, name, images, below, folder, more, pictures)


def edit(studio: Studio, values: Mapping[str, str]) -> None:
    """Take what was typed; what says the same as the preset is no change."""
    DraftFile(studio.home).change(lambda draft: edited(studio, draft, values))


def edited(studio: Studio, draft: Draft, values: Mapping[str, str]) -> Draft:
    """The draft with what was typed, less what says the same as the preset."""
    known = {key: cleaned(key, text) for key, text in values.items() if key in SETTINGS or key in OPTIONAL_SECTIONS}
    below = form_of(studio, draft.but(values=_without(draft.values, known))).below
    changed = {key: text for key, text in known.items() if text != below[key]}
    return draft.but(values=_without(draft.values, known) | changed, note="")


def reset(studio: Studio, keys: Iterable[str]) -> None:
    """Back to the preset; Undo brings back what was typed."""
    wanted = frozenset(keys)
    DraftFile(studio.home).change(
        lambda draft: draft.but(values=_without(draft.values, wanted), aside=draft.put_aside(), note="")
    )


def choose_preset(studio: Studio, name: str) -> None:
    """Its settings in place of those changed so far, which Undo brings back. A base model of one's own stays."""
    folders = preset_folders(studio.home)
    chosen = find_preset(name, folders)

    def changed(draft: Draft) -> Draft:
        kept = _own(draft.values)
        name_before = draft.preset or first_preset()
        before = next((each for each in list_presets(folders).presets if each.name == name_before), None)
        if before is not None and before.values.get("model") == chosen.values.get("model"):
            kept |= {key: text for key, text in draft.values.items() if key.startswith("model.")}
        aside = draft.put_aside() if kept != draft.values else draft.aside
        return draft.but(preset=name, values=kept, aside=aside, note="")

    DraftFile(studio.home).change(changed)


def undo(studio: Studio) -> None:
    """What was put aside, for what is there now."""

    def swapped(draft: Draft) -> Draft:
        if draft.aside is None:
            return draft
        before = draft.aside
        return draft.but(
            preset=before.preset, set_id=before.set_id, values=before.values, aside=draft.put_aside(), note=""
        )

    DraftFile(studio.home).change(swapped)


def fill_from_run(studio: Studio, run_id: str) -> None:
    """Every setting of an old run, upon the preset that it differs least from. Raises ConfigError, ExplainedError."""
    run = studio.store.find(run_id)
    texts = texts_of_config(studio.store.config(run))
    folder = Path(texts["data.folder"])
    is_set = folder.parent == studio.sets and folder.is_dir()
    place = {} if is_set else {"data.folder": texts["data.folder"]}

    def filled(draft: Draft) -> Draft:
        empty = draft.but(set_id=folder.name if is_set else draft.set_id, aside=draft.put_aside())
        names = [preset.name for preset in list_presets(preset_folders(studio.home)).presets]
        ways = [_upon(studio, empty.but(preset=name, values=place), texts) for name in names]
        return min(ways, key=lambda way: len(way.values)).but(note=f"Filled from the run {run.id}.")

    DraftFile(studio.home).change(filled)


def save_preset(studio: Studio, title: str) -> str:
    """The recipe as a preset of one's own, which is then the chosen one. Returns its name. Raises ConfigError."""
    name = slug(title)
    folder = preset_folders(studio.home)[-1]
    if (folder / f"{name}.toml").exists():
        raise ExplainedError(f"There is a preset {name!r} already.", "Give it another name.")
    form = read_form(studio)
    values = form.config(studio).model_dump(mode="json", exclude_none=True, exclude={"name", "config_version"})
    for key in OWN:
        section, _, own = key.rpartition(".")
        if section.count(".") == 0:
            values.get(section, {}).pop(own, None)
    head: dict[str, object] = {"title": title.strip() or name, "summary": f"Your own, from {form.preset}."}
    preset = find_preset(form.preset, preset_folders(studio.home))
    if preset.steps is not None and "train.steps" not in form.typed:
        head["steps"] = preset.steps.model_dump()
        values["train"].pop("steps")
    base = look_up(values["model"]["base"])
    head["family"] = base.family.name if base.family else preset.head.family
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.toml") as file:
        file.write(tomlkit.dumps({"preset": head, **values}).encode())
    DraftFile(studio.home).change(lambda draft: draft.but(preset=name, values=_own(draft.values)))
    return name


def _upon(studio: Studio, draft: Draft, texts: Mapping[str, str]) -> Draft:
    """The draft with whatever of `texts` differs from its preset and set."""
    below = form_of(studio, draft).below
    off = tuple(f"{section}." for section in OPTIONAL_SECTIONS if texts[section] == OFF)
    changed = {key: text for key, text in texts.items() if text != below[key] and not key.startswith(off or ("\0",))}
    return draft.but(values=dict(draft.values) | changed)


def steps_by_rule(preset: Preset, pictures: int) -> dict[str, str]:
    """The steps that the preset's rule gives so many pictures; nothing where it has none."""
    if preset.steps is None or "steps" in preset.values.get("train", {}):
        return {}
    return {"train.steps": str(preset.steps.for_pictures(pictures))}


def _entries(text: str) -> list[dict[str, Any]] | None:
    """Of `data.more` as it is typed; None where it is no list of tables with a folder each."""
    try:
        found: Any = tomllib.loads(f"more={override(MORE, text).partition('=')[2]}")["more"]
        return found if all(isinstance(entry["folder"], str) for entry in found) else None
    except (tomllib.TOMLDecodeError, RecursionError, LookupError, TypeError):
        return None


def _own(values: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in values.items() if key in OWN}


def _without(values: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    dropped = frozenset(keys)
    return {key: text for key, text in values.items() if key not in dropped}
