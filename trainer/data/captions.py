"""What a picture is called: the text file beside it, in whatever encoding, else the prompt of the set."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".txt", ".caption")  # the first that is there and says something counts


@dataclass(frozen=True)
class Caption:
    text: str
    file: Path | None  # None: it is the prompt of the set


@dataclass(frozen=True)
class Captions:
    """Caption of each picture of a set, by path."""

    by_picture: Mapping[Path, Caption]
    unused: tuple[Path, ...]  # caption files that belong to no picture

    @property
    def found(self) -> int:
        return sum(caption.file is not None for caption in self.by_picture.values())

    @property
    def missing(self) -> tuple[Path, ...]:
        """Pictures that are called by the prompt of the set."""
        return tuple(path for path, caption in self.by_picture.items() if caption.file is None)


def read_captions(pictures: Iterable[Path], prompt: str) -> Captions:
    """Of all `pictures`; those without a file, or with an empty one, get `prompt`."""
    captions = {picture: read_caption(picture, prompt) for picture in pictures}
    stems = {picture.with_suffix("") for picture in captions}
    folders = sorted({picture.parent for picture in captions})
    files = (file for folder in folders for file in sorted(folder.iterdir()))
    unused = tuple(file for file in files if file.suffix in SUFFIXES and file.with_suffix("") not in stems)
    return Captions(captions, unused)


def read_caption(picture: Path, prompt: str) -> Caption:
    for suffix in SUFFIXES:
        file = picture.with_suffix(suffix)
        if file.is_file() and (text := clean(decode(file.read_bytes()))):
            return Caption(text, file)
    return Caption(prompt, None)


def decode(data: bytes) -> str:
    """Text in UTF-8 or UTF-16, with a byte order mark or without, or in Windows' Western encoding; always some text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    for encoding in _guesses(data):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")  # knows every byte


_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def _guesses(data: bytes) -> Sequence[str]:
    """UTF-16 without a mark shows by its zero bytes: on one side of nearly every pair in a Western text."""
    pairs = len(data) // 2
    if pairs and data[1::2].count(0) > 0.4 * pairs:
        return ("utf-16-le", "utf-8", "cp1252")
    if pairs and data[0::2].count(0) > 0.4 * pairs:
        return ("utf-16-be", "utf-8", "cp1252")
    return ("utf-8", "cp1252")


def clean(text: str) -> str:
    """One line without control characters; everything else stays as it was written."""
    kept = (character for character in text if character.isspace() or unicodedata.category(character) != "Cc")
    return " ".join("".join(kept).split())
