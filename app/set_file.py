"""set.json: what is known of an image set besides its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dora_core.atomic import atomic_write

NAME = "set.json"


class PictureNote(BaseModel):
    """Of one picture, from when it was taken in."""

    model_config = ConfigDict(extra="ignore")

    name: str  # of the file that it came from, as a person wrote it
    pixels: str = ""  # hash of what it shows
    told: list[str] = Field(default_factory=list[str])  # what was done to it


class SetFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    v: Literal[1] = 1
    name: str
    prompt: str = ""  # what pictures without a caption of their own are called
    pictures: dict[str, PictureNote] = Field(default_factory=dict[str, PictureNote])  # by file name, in their order

    @staticmethod
    def read(folder: Path) -> SetFile:
        """One that is absent or damaged leaves a set with its folder's name: pictures and captions are files."""
        try:
            return SetFile.model_validate_json((folder / NAME).read_bytes())
        except (FileNotFoundError, ValidationError):
            return SetFile(name=folder.name)

    def note(self, picture: str) -> PictureNote:
        return self.pictures.get(picture) or PictureNote(name=picture)

    def write(self, folder: Path) -> None:
        with atomic_write(folder / NAME) as out:
            out.write(self.model_dump_json(indent=1).encode())
