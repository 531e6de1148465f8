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
    full_at: Path | None
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
    """Full at the `number`-th file of a kind that is opened for writing, for that file alone or from there on."""

    kind: str
    number: int
    lasting: bool
    turn_full: Callable[[bool], None] = limit_files


def do_in_child(action: Callable[[], object], root: Path, disk: FullDisk | None = None) -> Told:
    """Do it in a child whose files below `root` count."""
    reader, writer = os.pipe()

    def child() -> None:
        failure = ("", "", "")
        files = _Files(root, disk)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit fails then, instead of killing us
        sys.addaudithook(files.audit)
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test judges it
            told = classify(error)
            failure = told.category, told.sentence, told.fix
        with open(writer, "w", encoding="utf-8") as pipe:
            json.dump([files.written, files.full_at, *failure], pipe)

    code = in_child(child)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        written, full_at, *failure = json.load(pipe)
    assert code == 0
    return Told([Path(file) for file in written], full_at and Path(full_at), *failure)


def kind_of(file: Path) -> str:
    """Its name without what is random or counted in it."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "", file.name)


class _Files:
    """The files below `root` that this process opens for writing; the disk turns full at one of them."""

    def __init__(self, root: Path, disk: FullDisk | None) -> None:
        self.root, self.disk = str(root), disk
        self.written: list[str] = []
        self.full_at: str | None = None

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path, flags = os.fsdecode(arguments[0]), arguments[2]
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and path.startswith(self.root):
            self.written.append(path)
            if self.disk is not None:
                self._turn(self.disk, path)

    def _turn(self, disk: FullDisk, path: str) -> None:
        count = sum(kind_of(Path(file)) == disk.kind for file in self.written)
        is_it = (kind_of(Path(path)), count) == (disk.kind, disk.number)
        self.full_at = path if is_it else self.full_at
        disk.turn_full(is_it or (disk.lasting and self.full_at is not None))
