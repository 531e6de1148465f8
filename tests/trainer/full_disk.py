"""A disk that has no room for the N-th file that is written: work in a forked child, and what came of it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.trainer.killing import in_child
from trainer.failures import classify

ROOM_BYTES = 100  # that the file gets: enough for a beginning


@dataclass(frozen=True)
class Told:
    """What a child did: the files that it opened for writing, in order, and the failure that it ended with."""

    written: list[Path]
    category: str = ""
    sentence: str = ""
    fix: str = ""


def limit_files(is_full: bool) -> None:
    """As if the disk were full: no file may grow beyond a beginning."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES if is_full else hard, hard))


def fill(is_full: bool, filler: Path) -> None:
    """Take all the room that is left on the filler's disk, or give it back."""
    filler.unlink(missing_ok=True)
    free = shutil.disk_usage(filler.parent).free
    if is_full and free:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free)


@dataclass(frozen=True)
class FullDisk:
    """Full from the `number`-th file on that is opened for writing; `lasting`: for good, else for that file alone."""

    number: int
    lasting: bool
    turn_full: Callable[[bool], None] = limit_files


def do_in_child(action: Callable[[], object], root: Path, disk: FullDisk | None = None) -> Told:
    """Do it in a child whose files below `root` count."""
    reader, writer = os.pipe()

    def child() -> None:
        failure = ("", "", "")
        written = _watch_files(root, disk)
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test judges it
            told = classify(error)
            failure = told.category, told.sentence, told.fix
        with open(writer, "w", encoding="utf-8") as pipe:
            json.dump([written, *failure], pipe)

    code = in_child(child)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        written, *failure = json.load(pipe)
    assert code == 0
    return Told([Path(file) for file in written], *failure)


def kind_of(file: Path) -> str:
    """Its name without what is random or counted in it."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "", file.name)


def _watch_files(root: Path, disk: FullDisk | None) -> list[str]:
    """The files that this process opens for writing from now on. An audit hook stays for the life of a process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit fails then, as on a full disk
    written: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if path.startswith(str(root)):
            written.append(path)
            if disk is not None:
                is_full = len(written) >= disk.number if disk.lasting else len(written) == disk.number
                disk.turn_full(is_full)

    sys.addaudithook(hook)
    return written
