"""Image sets: a folder each, in which pictures lie with their captions beside them, as a run's `data.folder` has it.

The folder is the truth: pictures that somebody puts there by hand belong to the set too. `set.json` adds what files
cannot say: the set's name and prompt, the order, and what each picture was called before it got a name of ours.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.set_file import PictureNote, SetFile
from dora_core.atomic import atomic_write
from trainer import locks
from trainer.data.captions import SUFFIXES, clean, decode, read_caption
from trainer.data.scan import picture_files
from trainer.failures import ExplainedError
from trainer.run_dir import slug

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
SAMPLE_SETS: Mapping[str, tuple[str, str]] = {  # folder -> name, prompt
    "icons3d": ("3D icons (sample)", "3d style"),
    "subject": ("Penguin (sample)", "a sks penguin"),
}
REMOVED = ".removed"  # below all sets: a folder for each that pictures were taken out of
MOST_PICTURES = 500
LONGEST_NAME, LONGEST_CAPTION, LONGEST_PROMPT = 80, 4000, 1000  # characters
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
LOCK_SECONDS = 20


class NoSuchSetError(ExplainedError):
    """The set, or the picture in it, is not there, or not any more."""


class SetFullError(ExplainedError):
    """The set has as many pictures as it can hold."""


@dataclass(frozen=True)
class ImageSets:
    """All sets below a folder."""

    root: Path

    @property
    def trash(self) -> Path:
        return self.root / ".trash"

    def list(self) -> list[StoredSet]:
        """By name."""
        if not self.root.is_dir():
            return []
        folders = [path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return sorted(map(StoredSet, folders), key=lambda stored: (stored.file.name.casefold(), stored.id))

    def find(self, set_id: str) -> StoredSet:
        """Raises NoSuchSetError."""
        if not SAFE_NAME.fullmatch(set_id) or not (self.root / set_id).is_dir():
            raise NoSuchSetError("There is no such image set (any more).", "Choose another one.")
        return StoredSet(self.root / set_id)

    def create(self, name: str) -> StoredSet:
        name = self._free_name(name)
        stored = StoredSet(self.root / f"{slug(name)}-{secrets.token_hex(2)}")
        stored.folder.mkdir(parents=True)
        stored.write(SetFile(name=name))
        return stored

    def rename(self, set_id: str, name: str) -> None:
        """The folder keeps its own name, so runs that point to it go on."""
        stored = self.find(set_id)
        with stored.changing() as file:
            if clean(name) != file.name:
                file.name = self._free_name(name)

    def duplicate(self, set_id: str) -> StoredSet:
        original = self.find(set_id)
        name = self._free_name(original.file.name)
        copy = StoredSet(self.root / f"{slug(name)}-{secrets.token_hex(2)}")
        draft = self.root / f".{copy.id}"  # it appears whole or not at all
        try:
            shutil.copytree(original.folder, draft)
            with StoredSet(draft).changing() as file:
                file.name = name
            draft.rename(copy.folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return copy

    def delete(self, set_id: str) -> str:
        """Move the set to the trash; what `restore` calls it there."""
        thrown = f"{self.find(set_id).id}.{secrets.token_hex(4)}"
        self.trash.mkdir(parents=True, exist_ok=True)
        (self.root / set_id).rename(self.trash / thrown)
        return thrown

    def restore(self, thrown: str) -> StoredSet:
        """Raises NoSuchSetError."""
        if not SAFE_NAME.fullmatch(thrown) or not (self.trash / thrown).is_dir():
            raise NoSuchSetError("This set is not in the trash (any more).", "Choose another one.")
        return StoredSet((self.trash / thrown).rename(self.root / thrown.rpartition(".")[0]))

    def offer_samples(self) -> None:
        """Copy the sample sets that this folder has never had: one that was deleted does not come back."""
        self.root.mkdir(parents=True, exist_ok=True)
        offered = self.root / ".samples"
        had = offered.read_text().split() if offered.exists() else []
        for sample, (name, prompt) in SAMPLE_SETS.items():
            if sample not in had:
                self._copy_sample(sample, SetFile(name=name, prompt=prompt))
        with atomic_write(offered) as out:
            out.write("\n".join(SAMPLE_SETS).encode())

    def _copy_sample(self, sample: str, file: SetFile) -> None:
        if (self.root / sample).exists():
            return
        draft = self.root / f".{sample}"
        shutil.rmtree(draft, ignore_errors=True)  # of a start that was cut short
        shutil.copytree(SAMPLES / sample, draft)
        StoredSet(draft).write(file)
        draft.rename(self.root / sample)

    def _free_name(self, wanted: str) -> str:
        """That name, with a number behind it where another set has it."""
        name = clean(wanted)[:LONGEST_NAME].strip() or "Pictures"
        taken = {stored.file.name.casefold() for stored in self.list()}
        numbered = (f"{name} {number}" for number in range(2, len(taken) + 3))
        return name if name.casefold() not in taken else next(new for new in numbered if new.casefold() not in taken)


@dataclass(frozen=True)
class StoredSet:
    """One set. A picture is called by the name of its file, which is ours."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def file(self) -> SetFile:
        """set.json as it is now."""
        return SetFile.read(self.folder)

    @property
    def trash(self) -> Path:
        return self.folder.parent / REMOVED / self.id

    def pictures(self) -> list[Path]:
        """In the order of the set; what was put there by hand comes last, by name."""
        there = {path.name: path for path in picture_files(self.folder)}
        known = [there.pop(name) for name in self.file.pictures if name in there]
        return known + list(there.values())

    def picture(self, name: str) -> Path:
        """Raises NoSuchSetError."""
        found = next((path for path in picture_files(self.folder) if path.name == name), None)
        if found is None:
            raise NoSuchSetError("This picture is not in the set (any more).", "")
        return found

    def own_caption(self, name: str) -> str:
        """Of the text file; "" without one. Raises NoSuchSetError."""
        return read_caption(self.picture(name), "").text

    def add(self, data: bytes, suffix: str, note: PictureNote) -> Path:
        """Take in a picture that we have encoded. Raises SetFullError."""
        with self.changing() as file:
            count = len(picture_files(self.folder))
            if count >= MOST_PICTURES:
                raise SetFullError(f"A set holds at most {MOST_PICTURES} pictures.", "Make a second set for the rest.")
            picture = self.folder / f"{_next_number(file):04d}-{secrets.token_hex(2)}{suffix}"
            file.pictures[picture.name] = note
            with atomic_write(picture) as out:
                out.write(data)
        return picture

    def same_as(self, pixels: str) -> str | None:
        """What the picture of this set with these pixels was called, if there is one."""
        there = {path.name for path in picture_files(self.folder)}
        pairs = self.file.pictures.items()
        return next((note.name for name, note in pairs if note.pixels == pixels and name in there), None)

    def add_caption(self, data: bytes, name: str) -> Path | None:
        """A caption file that came along: to the newest picture of that name, one without a caption first.

        None where it belongs to no picture.
        """
        file = self.file
        fitting = [path for path in self.pictures() if _stem(file.note(path.name).name) == _stem(name)]
        waiting = [path for path in fitting if read_caption(path, "").file is None]
        if not fitting:
            return None
        picture = (waiting or fitting)[-1]
        self.set_caption(picture.name, decode(data))
        return picture

    def set_caption(self, name: str, text: str) -> None:
        """Write the text file beside the picture; without a text there is none. Raises NoSuchSetError."""
        picture = self.picture(name)
        file, *others = (picture.with_suffix(suffix) for suffix in SUFFIXES)
        if text := clean(text)[:LONGEST_CAPTION]:
            with atomic_write(file) as out:
                out.write(text.encode())
        else:
            file.unlink(missing_ok=True)
        for other in others:
            other.unlink(missing_ok=True)

    def set_prompt(self, prompt: str) -> None:
        with self.changing() as file:
            file.prompt = clean(prompt)[:LONGEST_PROMPT]

    def remove(self, name: str) -> None:
        """To the trash, caption and all. Raises NoSuchSetError."""
        picture = self.picture(name)
        self.trash.mkdir(parents=True, exist_ok=True)
        for path in _with_captions(picture):
            path.replace(self.trash / path.name)

    def restore(self, name: str) -> None:
        """Back from the trash to where it was. Raises NoSuchSetError."""
        thrown = self.trash / name
        if thrown.name != name or not thrown.is_file():
            raise NoSuchSetError("This picture is not in the trash (any more).", "")
        for path in reversed(_with_captions(thrown)):  # the picture last: it never shows without its caption
            path.replace(self.folder / path.name)

    def write(self, file: SetFile) -> None:
        file.write(self.folder)

    @contextmanager
    def changing(self) -> Generator[SetFile, None, None]:
        """set.json to change, for one at a time in all processes; written when the block ends well."""
        folder = self.folder.parent / ".locks"
        folder.mkdir(exist_ok=True)
        with locks.hold(folder / f"{self.id}.lock", LOCK_SECONDS):
            file = SetFile.read(self.folder)
            yield file
            file.write(self.folder)


def _next_number(file: SetFile) -> int:
    """Above all that ever were, so that removed pictures can come back."""
    numbers = (re.match(r"(\d+)-", name) for name in file.pictures)
    return max((int(found[1]) for found in numbers if found), default=0) + 1


def _stem(name: str) -> str:
    return Path(name).stem.casefold()


def _with_captions(picture: Path) -> list[Path]:
    files = [picture, *(picture.with_suffix(suffix) for suffix in SUFFIXES)]
    return [path for path in files if path.is_file()]
