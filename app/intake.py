"""What is dropped on the page, into a set: a picture, a caption, or a zip of both, which is taken file by file.

One file is one request, so that a page behind a proxy with limits works, progress is real, and a bad
file stops nothing.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app import zip_import
from app.image_sets import StoredSet
from app.picture_import import suffix_of, take_in
from trainer.data.captions import SUFFIXES as CAPTIONS
from trainer.failures import ExplainedError

MOST_BYTES, MOST_ZIP_BYTES = 50 * 2**20, 2**30  # of one file
STALE_SECONDS = 86400
ZIP = "archive.zip"


class NoSuchZipError(ExplainedError):
    """The zip is not kept any more."""


def most_bytes(name: str) -> int:
    return MOST_ZIP_BYTES if is_zip(name) else MOST_BYTES


def is_zip(name: str) -> bool:
    return Path(name).suffix.lower() == ".zip"


def too_large(most: int) -> tuple[str, str]:
    """A sentence, and what to do."""
    fix = "Drop the folder itself." if most == MOST_ZIP_BYTES else "Scale it down."
    return f"larger than {most // 2**20} MB.", fix


@dataclass(frozen=True)
class Taken:
    """What became of a file. `text` says so where it is worth a word; `is_new`: the set has a picture more."""

    text: str = ""
    is_new: bool = False


@dataclass(frozen=True)
class Intake:
    """`folder`: where files wait while they are looked at; it may be emptied at any time that nothing is uploaded."""

    folder: Path

    @contextmanager
    def waiting(self) -> Generator[Path, None, None]:
        """A folder of its own for one file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)

    def take(self, stored: StoredSet, path: Path, name: str) -> Taken:
        """The file at `path`, alone in its folder, that a person calls `name`. Raises ExplainedError."""
        suffix = Path(name).suffix.lower()
        if suffix in CAPTIONS:
            picture = stored.add_caption(path.read_bytes(), name)
            return Taken("" if picture else "a caption of no picture in this set: not used")
        looked_at = path.rename(path.with_name(f"picture{suffix_of(name)}"))
        picture = take_in(looked_at, name)
        if same := stored.same_as(picture.note.pixels):
            return Taken(f"the same picture as {same}: left out")
        stored.add(picture.data, picture.suffix, picture.note)
        return Taken("; ".join(picture.note.told), is_new=True)

    def keep_zip(self, path: Path) -> tuple[str, zip_import.Contents]:
        """Look into the zip and keep it, for `take_member`: the name that it is kept under. Raises BadZipError."""
        contents = zip_import.look_into(path)
        self._forget_stale()
        kept = Path(tempfile.mkdtemp(dir=self.folder, prefix="zip-"))
        path.rename(kept / ZIP)
        return kept.name, contents

    def take_member(self, stored: StoredSet, kept: str, index: int) -> Taken:
        """Raises ExplainedError."""
        name, data = zip_import.unpack(self._kept(kept) / ZIP, index, MOST_BYTES)
        with self.waiting() as folder:
            file = folder / "member"
            file.write_bytes(data)
            return self.take(stored, file, name)

    def forget_zip(self, kept: str) -> None:
        shutil.rmtree(self._kept(kept), ignore_errors=True)

    def _kept(self, name: str) -> Path:
        folder = self.folder / name
        if not re.fullmatch(r"zip-\w+", name) or not (folder / ZIP).is_file():
            raise NoSuchZipError("This zip is not here any more.", "Drop it again.")
        return folder

    def _forget_stale(self) -> None:
        for folder in self.folder.glob("zip-*"):
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
