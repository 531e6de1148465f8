"""The draft of a run: what the form holds, on disk, so a refresh, a restart and a second tab show the same.

`draft.toml` in the home folder names a preset and an image set, and has what was changed from them, as it was typed: a
value that is refused is kept too. One process after the other changes it; readers need no lock.
"""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dora_core.atomic import atomic_write
from trainer import locks
from trainer.home import Home

LOCK_SECONDS = 20
LONGEST_VALUE = 20_000  # characters


def new_key() -> str:
    return secrets.token_hex(8)


class Aside(BaseModel):
    """What the form held before another preset or a run took its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    set_id: str
    values: dict[str, str]


class Draft(BaseModel):
    """`preset` and `set_id` are "" until somebody chooses; `values` are texts by dotted key.

    An optional section is a key of its own there, such as ``data.prior``: "true" or "false".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(default=1, ge=1, le=1)
    preset: str = ""
    set_id: str = ""  # the folder's name below sets/
    values: dict[str, str] = Field(default_factory=dict[str, str])
    key: str = Field(default_factory=new_key)  # of the next start: two clicks with the same one make one run
    note: str = ""  # what the person should be told once
    aside: Aside | None = None  # what "Undo" brings back

    def put_aside(self) -> Aside:
        return Aside(preset=self.preset, set_id=self.set_id, values=self.values)

    def but(self, **changes: object) -> Draft:
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class DraftFile:
    """The draft of a home."""

    home: Home

    @property
    def path(self) -> Path:
        return self.home.path / "draft.toml"

    def read(self) -> Draft:
        """The draft as it is on disk. One that is broken is set aside, and the empty one in its place says so."""
        try:
            return _parse(self.path)
        except (FileNotFoundError, ValueError):
            return self.change(lambda draft: draft)  # written at once: every tab needs the same key

    def change(self, change: Callable[[Draft], Draft]) -> Draft:
        """Write what `change` makes of the draft, which nobody else changes meanwhile."""
        self.home.path.mkdir(parents=True, exist_ok=True)
        with locks.hold(self.home.path / "draft.lock", LOCK_SECONDS):
            changed = change(self._whole())
            with atomic_write(self.path) as file:
                file.write(tomlkit.dumps(changed.model_dump(exclude_none=True)).encode())
        return changed

    def choose_set(self, set_id: str) -> Draft:
        """Another image set; a folder that was typed in its place goes."""

        def chosen(draft: Draft) -> Draft:
            values = {key: text for key, text in draft.values.items() if key != "data.folder"}
            return draft.but(set_id=set_id, values=values)

        return self.change(chosen)

    def _whole(self) -> Draft:
        try:
            return _parse(self.path)
        except FileNotFoundError:
            return Draft()
        except ValueError as error:
            broken = self.path.with_name(f"draft-broken-{secrets.token_hex(2)}.toml")
            self.path.replace(broken)
            reason = str(error).splitlines()[0]
            return Draft(note=f"The settings that were kept could not be read ({reason}). They are now in {broken}.")


def _parse(path: Path) -> Draft:
    """Raises FileNotFoundError, or ValueError with what is wrong."""
    try:
        return Draft.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg'].lower()}") from None
