"""The worker: one per machine and home, started when there is a job, gone when there has been none for a while.

It claims jobs, one for each device, starts a process for each, and writes down how they end. The processes do not need
it: when it is killed they go on, and the next worker takes them over.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trainer import locks
from trainer.devices import Device, devices, read_driver
from trainer.exit_codes import classify_exit
from trainer.failures import Failure, classify, redacted
from trainer.home import VARIABLE, Home
from trainer.job import EXIT_BUSY, EXIT_GONE
from trainer.processes import Identity, spawn
from trainer.queue import TRAINING, Job, Outcome, Queue
from trainer.run_dir import ExitRecord, RunDir, tail
from trainer.status import read_status

IDLE_SECONDS = 60.0
POLL_SECONDS = 0.5
TAIL_LINES = 40
KILLED_ON_REQUEST = Failure(
    "stopped", "Stopped at once, without saving, because it was asked to stop twice.", "Resume it."
)
UNSEEN = Failure("killed", "The job ended while no worker was there to see how.", "Start it again.")

app = typer.Typer(help="Run the jobs of the queue until there are none left.", add_completion=False)


@app.command()
def serve_command(
    home: Annotated[Path | None, typer.Option(help="Folder of the runs and the queue.")] = None,
    idle_seconds: Annotated[float, typer.Option(min=0, help="Exit after so long without a job.")] = IDLE_SECONDS,
) -> None:
    """Run the jobs of the queue until there have been none for a while."""
    try:
        serve(Home.find(home), devices(os.environ, read_driver()), idle_seconds)
    except locks.LockHeldError:
        typer.echo("A worker is running already.")


def ensure_worker(home: Home) -> bool:
    """Start a worker that outlives this process, unless there is one. True when it was started."""
    if locks.is_locked(home.worker_lock):
        return False
    worker = spawn([sys.executable, "-m", "trainer.worker", "--home", str(home.path)], home.worker_log, {})
    # Waited for, or it would stay in the system's list as a zombie until this process ends.
    threading.Thread(target=worker.wait, daemon=True).start()
    return True


def job_command(file: Path) -> list[str]:
    return [sys.executable, "-m", "trainer.job", str(file)]


def serve(
    home: Home,
    places: Sequence[Device],
    idle_seconds: float = IDLE_SECONDS,
    command: Callable[[Path], Sequence[str]] = job_command,
) -> None:
    """Run jobs until there have been none for `idle_seconds`. Raises LockHeldError when another worker runs."""
    home.path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        held.enter_context(locks.hold(home.worker_lock))
        queue = Queue(home)
        slots = make_slots(queue, places, command)
        busy_at = time.monotonic()
        while True:
            is_busy = [slot.advance() for slot in slots]
            if any(is_busy):
                busy_at = time.monotonic()
            elif time.monotonic() - busy_at >= idle_seconds:
                # Whoever adds a job holds the queue's lock, and looks for a worker afterwards: either this one sees the
                # job, or they see this one gone.
                with queue.lock():
                    if not queue.has_waiting():
                        held.close()
                        return
            time.sleep(POLL_SECONDS)


def make_slots(queue: Queue, places: Sequence[Device], command: Callable[[Path], Sequence[str]]) -> list[Slot]:
    """One for each device, with the job that an earlier worker left running there."""
    running = {job.claim.device if job.claim else "": job for job in left_behind(queue)}
    slots = [Slot(queue, place, command, running.pop(place.name, None)) for place in places]
    return slots + [Slot(queue, None, command, job) for job in running.values()]


def left_behind(queue: Queue) -> list[Job]:
    """The running jobs of this machine's last worker. Those that it claimed but did not start go back to the queue."""
    jobs: list[Job] = []
    for job in queue.claimed_here():
        if queue.is_running(job) or (job.claim and job.claim.pid is not None):
            jobs.append(job)
        else:
            queue.release(job)
    return jobs


@dataclass
class Slot:
    """A device and its job: one that this worker started (`process`), or one left behind by an earlier worker.

    Without a device (it is gone since the earlier worker) the slot takes no new job.
    """

    queue: Queue
    device: Device | None
    command: Callable[[Path], Sequence[str]]
    job: Job | None = None
    process: subprocess.Popen[bytes] | None = None
    outcome: Outcome | None = None  # how the job ended, until it is written down

    def advance(self) -> bool:
        """Start a job, or note that one has ended; whether there is, or was just now, one.

        What a full disk does not take is written at a later call.
        """
        with suppress(OSError):
            if self.job is None:
                return self.device is not None and self._start(self.device)
            self.outcome = self.outcome or self._outcome(self.job)
            if self.outcome is not None:
                self._end(self.job, self.outcome)
        return True

    def _start(self, device: Device) -> bool:
        if (job := self.queue.claim(device.name)) is None:
            return False
        environment = {**device.environment, VARIABLE: str(self.queue.home.path)}
        self.job = job
        try:
            self.process = spawn(self.command(self.queue.claimed_file(job)), self.queue.log_file(job), environment)
        except OSError as error:
            failure = classify(error)
            self.outcome = Outcome(at=time.time(), code=1, sentence=failure.sentence, fix=failure.fix)
        else:
            self.job = self.queue.record(job, Identity.of(self.process.pid))
        return True

    def _outcome(self, job: Job) -> Outcome | None:
        """How the job ended; None while it runs."""
        if self.process and (code := self.process.poll()) is not None:
            self.process = None
            return None if code in (EXIT_BUSY, EXIT_GONE) else judge(self.queue, job, code)
        if not self.process and not self.queue.is_running(job):
            return judge(self.queue, job, None)
        return None

    def _end(self, job: Job, outcome: Outcome) -> None:
        if job.kind in TRAINING and outcome.code != 0:
            write_exit(job, outcome, tail(self.queue.log_file(job), TAIL_LINES))
        self.queue.finish(job, outcome)
        self.job = self.outcome = None


def judge(queue: Queue, job: Job, code: int | None) -> Outcome:
    """How a job ended: what its process said, else what its exit code says."""
    if (said := queue.read_outcome(job)) is not None:
        return said
    if any(RunDir(path).requested("kill") for path in job.runs):
        failure = KILLED_ON_REQUEST
    elif code is None:
        failure = UNSEEN
    else:
        failure = classify_exit(code, sys.platform, tail(queue.log_file(job), TAIL_LINES))
    return Outcome(at=time.time(), code=code, sentence=failure.sentence, fix=failure.fix)


def write_exit(job: Job, outcome: Outcome, log_tail: str) -> None:
    """Leave the outcome in the run that it concerns: the first one that is not finished."""
    runs = [RunDir(path) for path in job.runs if RunDir(path).exists()]
    concerned = next((run for run in runs if read_status(run).state != "finished"), None)
    if concerned is not None:
        record = ExitRecord(
            at=outcome.at,
            code=outcome.code,
            sentence=outcome.sentence,
            fix=outcome.fix,
            tail=redacted(tail(concerned.log_file, TAIL_LINES) or log_tail),
        )
        concerned.write_exit(record)


if __name__ == "__main__":
    app()
