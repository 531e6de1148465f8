"""What any file is, from its header alone: a browser sends that and the file's size, however large the file."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from app.studio import Studio
from dora_core.errors import FileFormatError
from dora_core.header import MAX_HEADER_BYTES
from trainer.base_files import PICKLE_ENDINGS, pickle_refusal
from trainer.failures import ExplainedError
from trainer.inspection import Description, describe

MOST_BYTES = MAX_HEADER_BYTES + 8
LARGEST_FILE = 2**40
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's: a zip, or plain
LONGEST_REASON = 900


class NotKnownError(ExplainedError):
    """A file that is neither an adapter nor a model."""


def of_path(text: str) -> dict[str, Any]:
    """Of a file or a diffusers folder of this machine. Raises ExplainedError."""
    path = Path(text.strip()).expanduser()
    if not text.strip() or not path.is_absolute():
        raise NotKnownError("This is no whole path.", "Give one such as /models/loras/panda.safetensors.")
    if not path.exists():
        raise NotKnownError(f"There is no {path}.", "Check the path: it is one of the machine that this page runs on.")
    return _told(path, path.name)


def of_header(studio: Studio, name: str, size: int, head: bytes) -> dict[str, Any]:
    """Of a file of the browser's machine: its name, its size and its first bytes. Raises ExplainedError."""
    shown = re.split(r"[/\\]", name)[-1][-200:] or "file"
    if not len(head) <= size <= LARGEST_FILE:
        raise NotKnownError("The size that came along cannot be right.", "Try again.")
    studio.incoming.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=studio.incoming) as folder:
        path = Path(folder) / f"file{Path(shown).suffix[:20]}"
        with open(path, "wb") as file:
            file.write(head)
            file.truncate(size)  # the rest is a hole, which takes no room
        return _told(path, shown)


def _told(path: Path, name: str) -> dict[str, Any]:
    try:
        _refuse_pickle(path, name)
        found = describe(path)
    except FileFormatError as error:
        reason = str(error).replace(str(path), name)
        short = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]} ..."
        raise NotKnownError(f"{short}{'' if short.endswith('.') else '.'}", "") from None
    return {"name": name, **_in_words(found)}


def _refuse_pickle(path: Path, name: str) -> None:
    if not path.is_file():
        return
    with open(path, "rb") as file:
        begins = file.read(4)
    if begins.startswith(PICKLES) or path.suffix in PICKLE_ENDINGS:
        raise FileFormatError(pickle_refusal(Path(name)))


def _in_words(found: Description) -> dict[str, Any]:
    where = found.rendering
    return {
        "title": found.title,
        "facts": list(found.facts.items()),
        "exact": list(where.exact) if where else [],
        "condition": where.condition if where else "",
        "wrong": list(where.wrong.items()) if where else [],
        "is_adapter": where is not None,
        "notes": list(found.notes),
    }
