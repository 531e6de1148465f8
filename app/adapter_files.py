"""The exported files of all runs: found, hashed, proven or not, renamed, thrown away and brought back."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Any

from app.studio import Studio
from dora_core.atomic import atomic_write, replace
from dora_core.errors import FileFormatError
from dora_core.layouts import NAME_ENDINGS, AdapterInfo, inspect_adapter
from trainer.events import EventLog, Renamed
from trainer.failures import ExplainedError
from trainer.run_dir import RunDir

ENDING, REPORT_ENDING = ".safetensors", ".parity.json"
TRASH = ".removed"
LONGEST_NAME = 120
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # in a file's name, on some system

Stamp = tuple[int, int]  # of a file: time and size


class NoSuchFileError(ExplainedError):
    """It has been deleted or renamed, or never was."""


class NameTakenError(ExplainedError):
    """Another file has that name."""


@dataclass(frozen=True)
class AdapterFile:
    """`key` names it in the page: the run's id and the file's name."""

    run: RunDir
    path: Path
    stamp: Stamp

    @property
    def key(self) -> str:
        return f"{self.run.id}/{self.path.name}"

    @property
    def info(self) -> AdapterInfo | str:
        """What its header says; a sentence where it is no adapter."""
        return _info(self.path, self.stamp)

    @property
    def sha256(self) -> str | None:
        """None: being computed."""
        return _hashes.of(self.path, self.stamp)

    @property
    def report(self) -> Mapping[str, Any] | None:
        """The parity report beside it; None: there is none, or none that can be read."""
        file = self.path.with_suffix(REPORT_ENDING)
        try:
            stat = file.stat()
            return _report(file, (stat.st_mtime_ns, stat.st_size))
        except (OSError, ValueError):
            return None


def files_of(run: RunDir) -> list[AdapterFile]:
    """The newest first."""
    try:
        with os.scandir(run.exports_dir) as entries:
            paths = [entry for entry in entries if entry.name.endswith(ENDING) and not entry.name.startswith(".")]
            found = [(Path(entry.path), entry.stat()) for entry in paths if entry.is_file()]
    except OSError:
        return []
    files = [AdapterFile(run, path, (stat.st_mtime_ns, stat.st_size)) for path, stat in found]
    return sorted(files, key=lambda file: (file.stamp[0], file.path.name), reverse=True)


def find(studio: Studio, key: str) -> AdapterFile:
    """Raises NoSuchFileError for whatever is not in the list of its run."""
    run = _run(studio, key)
    found = next((file for file in files_of(run) if file.key == key), None)
    if found is None:
        raise NoSuchFileError("This file is not there (any more).", "")
    return found


def rename(studio: Studio, key: str, name: str) -> str:
    """Give the file and its report another name, and tell the run; its new key. The ending that says which programs
    it is for stays. Raises ExplainedError."""
    file = find(studio, key)
    target = file.path.with_name(file_name(name, file.path.name))
    if target == file.path:
        return key
    if target.exists():
        raise NameTakenError(f"There is a {target.name} already.", "Choose another name.")
    report = file.report
    replace(file.path, target)
    if report is not None:
        with atomic_write(target.with_suffix(REPORT_ENDING)) as out:
            out.write(json.dumps({**report, "file": target.name}, indent=1).encode())
        file.path.with_suffix(REPORT_ENDING).unlink()
    names = [path.relative_to(file.run.path).as_posix() for path in (file.path, target)]
    EventLog(file.run.events_file).append(Renamed(file=names[0], to=names[1]))
    return f"{file.run.id}/{target.name}"


def delete(studio: Studio, key: str) -> None:
    """To the trash of the run's exports, report and all, in place of one of that name there."""
    file = find(studio, key)
    trash = file.run.exports_dir / TRASH
    trash.mkdir(exist_ok=True)
    _move(file.path, trash)


def restore(studio: Studio, key: str) -> None:
    """Back from the trash. Raises NoSuchFileError or NameTakenError."""
    run, name = _run(studio, key), key.partition("/")[2]
    thrown = run.exports_dir / TRASH / name
    if Path(name).name != name or not thrown.is_file():
        raise NoSuchFileError("This file is not in the trash (any more).", "")
    if (run.exports_dir / name).exists():
        raise NameTakenError(f"There is a {name} again.", "Rename or delete that one first.")
    _move(thrown, run.exports_dir)


def ending_of(name: str) -> str:
    """What a file's name ends with, as its layout has it."""
    return next(ending for ending in sorted(NAME_ENDINGS.values(), key=len, reverse=True) if name.endswith(ending))


def _run(studio: Studio, key: str) -> RunDir:
    run = RunDir(studio.home.runs / key.partition("/")[0])
    if run.path.parent != studio.home.runs or run.id.startswith(".") or not run.exists():
        raise NoSuchFileError("This run is not there (any more).", "")
    return run


def file_name(wanted: str, old: str) -> str:
    ending = ending_of(old)
    stem = wanted.strip().removesuffix(ending).removesuffix(ENDING).strip(" .")
    if not stem or FORBIDDEN.search(stem) or len(stem) > LONGEST_NAME:
        raise ExplainedError(
            f"{wanted!r} cannot be a file's name.",
            f'Take 1 to {LONGEST_NAME} letters, none of < > : " / \\ | ? *.',
        )
    return stem + ending


def _move(file: Path, folder: Path) -> None:
    """With its report, which moves first: a file without one is never taken for unproven."""
    report = file.with_suffix(REPORT_ENDING)
    for path in (report, file) if report.is_file() else (file,):
        replace(path, folder / path.name)


@lru_cache(maxsize=1024)
def _info(path: Path, stamp: Stamp) -> AdapterInfo | str:
    try:
        return inspect_adapter(path)
    except (FileFormatError, OSError) as error:
        return str(error)


@lru_cache(maxsize=1024)
def _report(file: Path, stamp: Stamp) -> Mapping[str, Any] | None:
    found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType] - JSON


class _Hashes:
    """Computed beside the page, as a merged checkpoint takes seconds; kept while the file is the same."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "hashes")
        self.known: dict[tuple[Path, Stamp], Future[str]] = {}
        self.lock = threading.Lock()

    def of(self, path: Path, stamp: Stamp) -> str | None:
        with self.lock:
            future = self.known.get((path, stamp))
            if future is None:
                future = self.known[path, stamp] = self.pool.submit(_sha256, path)
        return future.result() if future.done() and future.exception() is None else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


_hashes = _Hashes()
