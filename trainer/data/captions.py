"""What a picture is called: a text file or metadata.jsonl beside it, its own name, or the prompt of the set."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config_data import CaptionSource
from trainer.failures import ExplainedError

SUFFIXES = (".txt", ".caption", ".cap", ".tags")  # the first that is there and says something counts
METADATA = "metadata.jsonl"  # of a folder, as Hugging Face's datasets have it: {"file_name": ..., "text": ...} a line
NUMBER = re.compile(r"^\d+[\s.-]+|[\s.-]*\(\d+\)$|[\s.-]+\d+$")  # before or behind a name
CAMERA = re.compile(r"(img|dsc[fn]?|pxl|mvimg|image|photo|screenshot)?[\s.\d-]*", re.IGNORECASE)


@dataclass(frozen=True)
class Caption:
    text: str
    file: Path | None  # that says so; None: it is the prompt of the set


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


class BadMetadataError(ExplainedError):
    """A metadata.jsonl that cannot be read: captions would be missing without a word."""

    category = "missing file"


def read_captions(pictures: Iterable[Path], prompt: str, source: CaptionSource = "file") -> Captions:
    """Of all `pictures`; those that `source` says nothing of get `prompt`. Raises BadMetadataError."""
    if source != "file":
        named = {picture: name_in_words(picture) if source == "name" else "" for picture in pictures}
        found = {picture: Caption(text, picture) if text else Caption(prompt, None) for picture, text in named.items()}
        return Captions(found, ())
    paths = list(pictures)
    folders = sorted({picture.parent for picture in paths})
    metadata = {folder: read_metadata(folder) for folder in folders}
    captions = {picture: _own_or(picture, metadata[picture.parent], prompt) for picture in paths}
    stems = {picture.with_suffix("") for picture in captions}
    files = (file for folder in folders for file in sorted(folder.iterdir()))
    unused = tuple(file for file in files if file.suffix in SUFFIXES and file.with_suffix("") not in stems)
    return Captions(captions, unused)


def read_caption(picture: Path, prompt: str) -> Caption:
    """By the file beside it alone."""
    for suffix in SUFFIXES:
        file = picture.with_suffix(suffix)
        if file.is_file() and (text := clean(decode(file.read_bytes()))):
            return Caption(text, file)
    return Caption(prompt, None)


def read_metadata(folder: Path) -> Mapping[str, str]:
    """Captions by file name, of the folder's metadata.jsonl if it has one. Raises BadMetadataError."""
    file = folder / METADATA
    if not file.is_file():
        return {}
    captions: dict[str, str] = {}
    for number, line in enumerate(decode(file.read_bytes()).splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else {"file_name": "", "text": ""}
            captions[str(row["file_name"])] = clean(str(row["text"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadMetadataError(
                f'{file}, line {number}, is not {{"file_name": ..., "text": ...}} in JSON.',
                "Correct the line, or put the captions into text files and the file elsewhere.",
            ) from error
    return captions


def name_in_words(picture: Path) -> str:
    """'red_panda (3).jpg' is a 'red panda'; "" for what cameras call pictures, and numbers."""
    words = clean(picture.stem.replace("_", " "))
    while (shorter := NUMBER.sub("", words)) != words:
        words = shorter
    return "" if CAMERA.fullmatch(words) else words


def _own_or(picture: Path, metadata: Mapping[str, str], prompt: str) -> Caption:
    own = read_caption(picture, "")
    if own.file is None and (text := metadata.get(picture.name, "")):
        return Caption(text, picture.with_name(METADATA))
    return own if own.file is not None else Caption(prompt, None)


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
