"""All runs of a home, read again only where something changed: tabs ask once a second, and there may be thousands."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from trainer.config import RunConfig
from trainer.config_errors import ConfigError
from trainer.home import Home
from trainer.queue import TRAINING, UNDONE, Queue
from trainer.run_dir import RunDir, RunGoneError
from trainer.status import RunStatus, State, read_status
from trainer.store import MINUTE, Store
from trainer.twins import pair_id

FRESH_SECONDS = 0.7  # less than a tick, so that all tabs together cost one look at the disk a second
SETTLED: frozenset[State] = frozenset({"new", "stopped", "failed", "interrupted", "finished"})
Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Known:
    """A run as the page shows it. Where its settings cannot be read, `name` is its id and the rest is empty."""

    run: RunDir
    status: RunStatus
    name: str
    kind: str = ""
    rank: int = 0  # none of a full fine-tune
    base: str = ""
    pair: str | None = None
    written: int = 0  # when its settings were, in nanoseconds

    @property
    def facts(self) -> dict[str, object]:
        """What every list of runs says of it."""
        return {"id": self.run.id, "name": self.name, "kind": self.kind, "rank": self.rank, "base": self.base}

    @property
    def age(self) -> tuple[str, int, str]:
        return self.run.id[:MINUTE], self.written, self.run.id


@dataclass
class KnownRuns:
    """What was read of each run, beside what its files looked like then."""

    home: Home
    read_at: float = -FRESH_SECONDS
    known: dict[str, tuple[Signature, Known]] = field(default_factory=dict[str, tuple[Signature, Known]])
    newest_first: tuple[Known, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def all(self) -> tuple[Known, ...]:
        """The newest first."""
        with self.lock:
            if time.monotonic() - self.read_at >= FRESH_SECONDS:
                self._read()
            return self.newest_first

    def find(self, run_id: str) -> Known | None:
        """None: it is not there, or cannot be read."""
        return next((known for known in self.all() if known.run.id == run_id), None)

    def twins(self, known: Known) -> list[Known]:
        """The runs of its pair, itself among them, LoRA last; [] without a pair."""
        pair = [other for other in self.all() if known.pair is not None and other.pair == known.pair]
        return sorted(pair, key=lambda other: other.kind, reverse=True)

    def look_again(self) -> None:
        """Something was just done: the next who asks shall see it."""
        self.read_at = -FRESH_SECONDS

    def _read(self) -> None:
        queue = Queue(self.home)
        jobs = [entry.job for entry in queue.list_jobs(UNDONE) if entry.job.kind in TRAINING]
        queued = {path.name for job in jobs for path in job.runs}
        read: dict[str, tuple[Signature, Known]] = {}
        for folder in _folders(self.home.runs):
            before = self.known.get(folder.name)
            try:
                signature = _signature(folder)
                if before and before[0] == signature and _is_settled(before[1]) and folder.name not in queued:
                    read[folder.name] = before
                else:
                    run = RunDir(folder)
                    status = read_status(run, queue.place(run) if folder.name in queued else None)
                    read[folder.name] = signature, _described(self.home, run, status)
            except (RunGoneError, OSError):  # deleted a moment ago, or closed to us
                continue
        self.known = read
        self.newest_first = tuple(sorted((known for _, known in read.values()), key=lambda known: known.age)[::-1])
        self.read_at = time.monotonic()


@cache
def known_runs(home: Home) -> KnownRuns:
    """The one of this process."""
    return KnownRuns(home)


def places(home: Home) -> Mapping[str, int]:
    """How many jobs are before each run that waits."""
    waiting = Queue(home).list_jobs(UNDONE)
    return {path.name: number for number, entry in enumerate(waiting) for path in entry.job.runs}


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return []


def _signature(folder: Path) -> Signature:
    """Changes with every event, and with settings and exit record, which are put into the folder by a rename."""
    changed = os.stat(folder).st_mtime_ns
    try:
        events = os.stat(f"{folder}/events.jsonl")
    except FileNotFoundError:
        return changed, 0, 0
    return changed, events.st_mtime_ns, events.st_size


def _is_settled(known: Known) -> bool:
    return known.status.state in SETTLED


def _described(home: Home, run: RunDir, status: RunStatus) -> Known:
    written = run.config_file.stat().st_mtime_ns
    try:
        config = Store(home).config(run)
    except ConfigError:
        return Known(run, status, run.id, written=written)
    adapter = config.adapter
    rank = 0 if adapter.kind == "full" else adapter.rank
    return Known(run, status, config.name, adapter.kind, rank, short_base(config), pair_id(run), written)


def short_base(config: RunConfig) -> str:
    """Of a path or a hub id the last part."""
    return config.model.base.rstrip("/\\").replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")
