"""A run is a folder: it can be read, copied, zipped and deleted by hand. README.md says what is in it."""

from __future__ import annotations

import re
import secrets
import shutil
import unicodedata
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dora_core.atomic import atomic_write, replace
from trainer import locks
from trainer.config import RunConfig
from trainer.config_io import dump_config

Request = Literal["stop", "pause", "save", "sample", "kill"]
UNFINISHED = ".tmp-"


class RunBusyError(RuntimeError):
    """A process already works on the run."""


class RunGoneError(FileNotFoundError):
    """The run directory has been deleted or moved."""


class ExitRecord(BaseModel):
    """exit.json: how the run's process ended, written by the worker that started it, when it did not end well."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    at: float
    code: int | None
    sentence: str
    fix: str
    tail: str = ""


@dataclass(frozen=True)
class RunDir:
    path: Path

    @staticmethod
    def create(root: Path, config: RunConfig) -> RunDir:
        """A new run directory for the config, named after it."""
        return RunDir.make(root, config.name, {"run.toml": dump_config(config).encode()})

    @staticmethod
    def make(root: Path, name: str, files: Mapping[str, bytes]) -> RunDir:
        """A new run directory with these files in it, which appears under `root` whole or not at all."""
        final = root / f"{datetime.now(UTC):%Y-%m-%d-%H%M}-{slug(name)}-{secrets.token_hex(2)}"
        temporary = root / f"{UNFINISHED}{final.name}"
        try:
            for folder in ("control", "samples", "checkpoints", "exports", "grids"):
                (temporary / folder).mkdir(parents=True)
            for file, data in files.items():
                (temporary / file).write_bytes(data)
            replace(temporary, final)
            return RunDir(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def lock_file(self) -> Path:
        return self.path / "run.lock"

    @property
    def exit_file(self) -> Path:
        return self.path / "exit.json"

    @property
    def control_dir(self) -> Path:
        return self.path / "control"

    @property
    def samples_dir(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exports_dir(self) -> Path:
        return self.path / "exports"

    @property
    def grids_dir(self) -> Path:
        return self.path / "grids"

    def exists(self) -> bool:
        return self.config_file.is_file()

    def require(self) -> None:
        """Raises RunGoneError where it is not there."""
        if not self.exists():
            raise RunGoneError(f"{self.path} is gone: it was deleted or moved")

    @contextmanager
    def hold(self) -> Generator[None, None, None]:
        """Hold the run's lock, which says that the run is alive. Requests made before it count; none is left after.

        Raises RunBusyError.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.hold(self.lock_file))
            except locks.LockHeldError:
                raise RunBusyError(f"another process works on {self.path}: wait for it, or stop it") from None
            self.exit_file.unlink(missing_ok=True)
            stack.callback(self.clear_requests)
            yield

    def is_locked(self) -> bool:
        return locks.is_locked(self.lock_file)

    def request(self, what: Request) -> None:
        """Ask the run's process for something; it looks at every step boundary. Asking twice is asking once."""
        self.control_dir.mkdir(exist_ok=True)
        (self.control_dir / what).touch()

    def requested(self, what: Request) -> bool:
        return (self.control_dir / what).exists()

    def clear(self, what: Request) -> None:
        (self.control_dir / what).unlink(missing_ok=True)

    def clear_requests(self) -> None:
        """Forget what was asked of an earlier process, which may have been killed before it could answer."""
        for what in get_args(Request):
            self.clear(what)

    def write_exit(self, record: ExitRecord) -> None:
        with atomic_write(self.exit_file) as file:
            file.write(record.model_dump_json().encode())

    def read_exit(self) -> ExitRecord | None:
        try:
            return ExitRecord.model_validate_json(self.exit_file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def slug(name: str) -> str:
    """A part of a folder's name that every system takes, from whatever a person typed."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[:40].rstrip("-") or "run"


def tail(path: Path, lines: int = 40, at_most_bytes: int = 65536) -> str:
    """The last lines of a log of any size, whatever bytes are in it; empty when there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - at_most_bytes))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    # A progress bar writes over its line again and again: what a terminal would show is what comes after the last \r.
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
    return "\n".join(shown[-lines:])
