"""Changes to many captions at once: words replaced, words put before and after."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from app.image_sets import StoredSet
from trainer.data.captions import clean, read_caption


class Edit(BaseModel):
    """`find` is taken literally; `before` and `after` are not added to a caption that has them there already."""

    find: str = ""
    replace: str = ""
    before: str = ""
    after: str = ""

    def apply(self, caption: str) -> str:
        text = caption.replace(self.find, self.replace) if self.find else caption
        if self.before.strip() and not text.startswith(self.before.strip()):
            text = f"{self.before.strip()} {text}"
        if self.after.strip() and not text.endswith(self.after.strip()):
            text = f"{text}{_gap(self.after)}{self.after.strip()}"
        return clean(text)


def _gap(after: str) -> str:
    """No blank before a comma."""
    return "" if after.lstrip()[0] in ",.;:!?" else " "


def own_captions(stored: StoredSet) -> dict[str, str]:
    """By picture, of those that have one of their own."""
    captions = {path.name: read_caption(path, "").text for path in stored.pictures()}
    return {name: text for name, text in captions.items() if text}


def changed(captions: Mapping[str, str], edit: Edit) -> dict[str, str]:
    """Those that the edit makes another text of. Pictures without a caption of their own stay without."""
    edited = {name: edit.apply(text) for name, text in captions.items()}
    return {name: text for name, text in edited.items() if text != captions[name]}
