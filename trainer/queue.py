"""Jobs as files: queue/{waiting,claimed,done}/<id>.json. The folder is the job's state, and a rename moves it on."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from dora_core.atomic import atomic_write, replace
from trainer import locks
from trainer.home import Home
from trainer.processes import Identity
from trainer.run_dir import RunDir
from trainer.status import Place

Kind = Literal["train", "twin", "sample", "compare", "export"]
JobState = Literal["waiting", "claimed", "done"]
STATES: tuple[JobState, ...] = ("waiting", "claimed", "done")
TRAINING: tuple[Kind, ...] = ("train", "twin")
UNDONE: tuple[JobState, ...] = ("waiting", "claimed")
KEEP_DONE = 200


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Claim(_Record):
    """Who works on a job: a worker of `host`, and as soon as it is started the job's own process."""

    at: float
    host: str
    device: str
    pid: int | None = None
    create_time: float = 0

    def is_alive(self) -> bool:
        return self.pid is not None and Identity(self.pid, self.create_time, self.host).process() is not None


class Outcome(_Record):
    """How a job ended. `code` is None when nobody was there to see it."""

    at: float
    code: int | None
    sentence: str = ""
    fix: str = ""
    trace: str = ""


class Job(_Record):
    v: Literal[1] = 1
    id: str
    kind: Kind
    runs: tuple[Path, ...]
    parameters: dict[str, JsonValue] = {}
    key: str = ""
    submitted_at: float
    claim: Claim | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Entry:
    job: Job
    state: JobState


class Queue:
    def __init__(self, home: Home) -> None:
        self.home = home
        for state in STATES:
            self._folder(state).mkdir(parents=True, exist_ok=True)

    def submit(
        self,
        kind: Kind,
        runs: Sequence[Path],
        parameters: Mapping[str, JsonValue] | None = None,
        key: str = "",
    ) -> Job:
        """Put a job at the end of the queue.

        A job submitted before with the same key is returned instead, in whatever state it is; so is a job that waits or
        runs and is the same: two clicks, two pages or a retried request make one job.
        """
        paths = tuple(path.absolute() for path in runs)
        wanted = dict(parameters or {})
        with self.lock():
            for entry in self.list_jobs():
                same = (entry.job.kind, entry.job.runs, entry.job.parameters) == (kind, paths, wanted)
                if (key and entry.job.key == key) or (same and entry.state != "done"):
                    return entry.job
            now = time.time()
            name = f"{time.time_ns():020d}-{secrets.token_hex(3)}"
            job = Job(id=name, kind=kind, runs=paths, parameters=wanted, key=key, submitted_at=now)
            if kind in TRAINING:
                for path in paths:
                    RunDir(path).clear_requests()
            self._write(job, "waiting")
        return job

    def list_jobs(self, states: Sequence[JobState] = STATES) -> list[Entry]:
        """The jobs in these states, the oldest first. Files that are no jobs are left alone."""
        entries = {job.id: Entry(job, state) for state in states for job in self._read_all(state)}
        return [entries[name] for name in sorted(entries)]

    def claim(self, device: str) -> Job | None:
        """Take the oldest waiting job, if there is one: of several workers one gets it."""
        with self.lock():
            for job in self._read_all("waiting"):
                claim = Claim(at=time.time(), host=socket.gethostname(), device=device)
                return self._advance(job.model_copy(update={"claim": claim}), "waiting", "claimed")
        return None

    def record(self, job: Job, process: Identity) -> Job:
        """Write down the process of a claimed job."""
        assert job.claim is not None
        claim = job.claim.model_copy(update={"pid": process.pid, "create_time": process.create_time})
        claimed = job.model_copy(update={"claim": claim})
        self._write(claimed, "claimed")
        return claimed

    def finish(self, job: Job, outcome: Outcome) -> None:
        self._advance(job.model_copy(update={"outcome": outcome}), "claimed", "done")
        for old in self._read_all("done")[:-KEEP_DONE]:
            for file in (self._file(old, "done"), self.log_file(old), self.lock_file(old), self.outcome_file(old)):
                file.unlink(missing_ok=True)

    def release(self, job: Job) -> None:
        """Put a claimed job that has not begun back to where it was."""
        self._advance(job.model_copy(update={"claim": None}), "claimed", "waiting")

    def cancel(self, job: Job) -> bool:
        """Take a waiting job off the queue; False when it is too late."""
        with self.lock():
            if not self._file(job, "waiting").exists():
                return False
            outcome = Outcome(at=time.time(), code=None, sentence="Taken off the queue.")
            self._advance(job.model_copy(update={"outcome": outcome}), "waiting", "done")
        return True

    def has_waiting(self) -> bool:
        return any(self._read_all("waiting"))

    def claimed_here(self) -> list[Job]:
        """The jobs that a worker of this machine claimed."""
        return [job for job in self._read_all("claimed") if job.claim and job.claim.host == socket.gethostname()]

    def claimed_file(self, job: Job) -> Path:
        return self._file(job, "claimed")

    def read_outcome(self, job: Job) -> Outcome | None:
        """What the job's process said at its end; None when it could not."""
        try:
            return Outcome.model_validate_json(self.outcome_file(job).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def place(self, run: RunDir) -> Place | None:
        """Where the run stands in the queue, when it waits to be trained or a living worker has taken it."""
        for entry in self.list_jobs(UNDONE):
            if entry.job.kind in TRAINING and run.path.absolute() in entry.job.runs and self._counts(entry):
                claim = entry.job.claim
                if entry.state == "waiting" or claim is None:
                    return Place("waiting", since=entry.job.submitted_at)
                return Place("behind" if entry.job.runs.index(run.path.absolute()) else "claimed", since=claim.at)
        return None

    @contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Held while a job is added, and while a worker decides that there is none left."""
        with locks.hold(self.home.queue / "queue.lock", timeout_seconds=30):
            yield

    def lock_file(self, job: Job) -> Path:
        """Held by the job's process for life."""
        return self.home.queue / "locks" / f"{job.id}.lock"

    def log_file(self, job: Job) -> Path:
        return self.home.queue / "logs" / f"{job.id}.txt"

    def outcome_file(self, job: Job) -> Path:
        """What the job's process says at its end."""
        return self.home.queue / "outcomes" / f"{job.id}.json"

    def is_running(self, job: Job) -> bool:
        return locks.is_locked(self.lock_file(job)) or (job.claim is not None and job.claim.is_alive())

    def _counts(self, entry: Entry) -> bool:
        """Whether an entry is more than what a killed worker left behind."""
        if entry.state == "waiting" or entry.job.claim is None:
            return True
        is_elsewhere = entry.job.claim.host != socket.gethostname()
        return is_elsewhere or locks.is_locked(self.home.worker_lock) or self.is_running(entry.job)

    def _folder(self, state: JobState) -> Path:
        return self.home.queue / state

    def _file(self, job: Job, state: JobState) -> Path:
        return self._folder(state) / f"{job.id}.json"

    def _write(self, job: Job, state: JobState) -> None:
        with atomic_write(self._file(job, state)) as file:
            file.write(job.model_dump_json(indent=1).encode())

    def _advance(self, job: Job, old: JobState, new: JobState) -> Job:
        self._write(job, old)
        replace(self._file(job, old), self._file(job, new))
        return job

    def _read_all(self, state: JobState) -> list[Job]:
        # A job may move on between the listing and the reading.
        jobs = (read_job(path) for path in sorted(self._folder(state).glob("*.json")))
        return [job for job in jobs if job is not None]


def read_job(path: Path) -> Job | None:
    """The job in a file; None where there is no such file, or no job in it."""
    try:
        return Job.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
