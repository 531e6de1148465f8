"""The image sets beside the first one, entries of `data.more`: what Setup lists, adds, and takes out.

The text of that setting is all there is. What else an entry says, such as a weight or a mask, stays as it was typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.draft import Draft, DraftFile
from app.form import as_text
from app.image_sets import ImageSets
from app.setup_form import MORE, Form, edited, form_of
from app.studio import Studio
from trainer.config_errors import SETTINGS
from trainer.data.scan import picture_files
from trainer.failures import ExplainedError

Entry = Mapping[str, Any]


def beside(studio: Studio, form: Form) -> dict[str, list[dict[str, Any]]]:
    """`listed`: the sets of `data.more`; `others`: those that could be added."""
    entries = form.more or []
    sets = {str(each.folder): each.file.name for each in ImageSets(studio.sets).list()}
    listed = [
        {
            "folder": entry["folder"],
            "name": sets.get(entry["folder"], entry["folder"]),
            "pictures": len(picture_files(Path(entry["folder"]))),
            "prompt": entry.get("instance_prompt", ""),
            "repeats": entry.get("repeats", 1),
            "is_kept": entry.get("role") == "prior-prediction",
        }
        for entry in entries
    ]
    used = {str(form.folder), *(entry["folder"] for entry in entries)}
    others = [{"id": Path(folder).name, "name": name} for folder, name in sets.items() if folder not in used]
    return {"listed": listed, "others": others if form.more is not None else []}


def add_beside(studio: Studio, set_id: str) -> None:
    """A set of Images, called as it is there. Raises NoSuchSetError."""
    stored = ImageSets(studio.sets).find(set_id)
    added = {"folder": str(stored.folder), "instance_prompt": stored.file.prompt}
    _change(studio, lambda entries: [*(entry for entry in entries if entry["folder"] != added["folder"]), added])


def repeat_beside(studio: Studio, folder: str, repeats: int) -> None:
    """How often a pass shows its pictures; 0 takes it out."""
    _change(
        studio,
        lambda entries: [
            {**entry, "repeats": repeats} if entry["folder"] == folder else entry
            for entry in entries
            if repeats or entry["folder"] != folder
        ],
    )


def follow_prompt(studio: Studio, folder: Path, before: str, after: str) -> None:
    """A set that was added as it was called in Images stays called so."""

    def followed(entry: Entry) -> Entry:
        is_followed = entry["folder"] == str(folder) and entry.get("instance_prompt", "") == before
        return {**entry, "instance_prompt": after} if is_followed else entry

    entries = form_of(studio, DraftFile(studio.home).read()).more or []
    if [followed(entry) for entry in entries] != entries:
        _change(studio, lambda now: [followed(entry) for entry in now])


def _change(studio: Studio, change: Callable[[Sequence[Entry]], Sequence[Entry]]) -> None:
    def changed(draft: Draft) -> Draft:
        entries = form_of(studio, draft).more
        if entries is None:
            raise ExplainedError("What is typed as More sets cannot be read.", f"Correct {MORE} first, below Advanced.")
        return edited(studio, draft, {MORE: as_text(SETTINGS[MORE], change(entries))})

    DraftFile(studio.home).change(changed)
