"""Jobs that are no training, as the page tells of them: waiting, at work, failed."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.processes import Identity, kill_tree
from trainer.queue import UNDONE, Entry, Job, Kind, Queue
from trainer.run_dir import tail

FAILED_SECONDS = 3600.0  # so long a failure stays in view, unless something newer takes its place
TAIL_LINES = 20


def told(home: Home, kind: Kind, progress: re.Pattern[str] | None = None) -> list[tuple[Job, dict[str, Any]]]:
    """The jobs of that kind which wait or run, and before them the last one if it failed lately.

    `progress` finds two numbers, done and of how many, in what a job prints.
    """
    queue = Queue(home)
    undone = queue.list_jobs(UNDONE)
    ours = [entry for entry in undone if entry.job.kind == kind]
    ended = _last_ended(home, kind, (home.queue / "done").stat().st_mtime_ns)
    return [
        *((job, _failure(job)) for job in ended if _is_failed(job)),
        *((entry.job, _state(queue, entry, undone.index(entry), progress)) for entry in ours),
    ]


def end(home: Home, name: str) -> None:
    """Take a job off the queue, or end its process. Raises ExplainedError where there is none."""
    queue = Queue(home)
    job = next((entry.job for entry in queue.list_jobs(UNDONE) if entry.job.id == name), None)
    if job is None or job.kind in ("train", "twin"):  # a run is stopped with a save, by its own means
        raise ExplainedError("It has ended already.", "")
    if not queue.cancel(job) and job.claim is not None and job.claim.pid is not None:
        kill_tree(Identity(job.claim.pid, job.claim.create_time, job.claim.host))


@lru_cache(maxsize=16)
def _last_ended(home: Home, kind: Kind, changed: int) -> tuple[Job, ...]:
    """The last job of that kind that ended, if there is one; `changed`: when the folder of them did."""
    return tuple(entry.job for entry in Queue(home).list_jobs(["done"]) if entry.job.kind == kind)[-1:]


def _is_failed(job: Job) -> bool:
    outcome = job.outcome
    if outcome is None or outcome.code == 0 or time.time() - outcome.at > FAILED_SECONDS:
        return False
    return job.claim is not None  # else it was taken off the queue


def _failure(job: Job) -> dict[str, Any]:
    assert job.outcome is not None
    return {"id": job.id, "state": "failed", "sentence": job.outcome.sentence, "fix": job.outcome.fix}


def _state(queue: Queue, entry: Entry, ahead: int, progress: re.Pattern[str] | None) -> dict[str, Any]:
    if entry.state == "waiting":
        return {"id": entry.job.id, "state": "waiting", "ahead": ahead}
    printed = tail(queue.log_file(entry.job), TAIL_LINES) if progress else ""
    counted = progress.findall(printed)[-1:] if progress else []
    done, total = map(int, counted[0]) if counted else (0, 0)
    return {"id": entry.job.id, "state": "running", "done": done, "total": total}
