"""The process of one job: ``python -m trainer.job FILE``, started by the worker.

It holds the job's lock for life, runs what the job's kind stands for, and leaves an outcome file. The modules of the
table load torch; nothing else here does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from pydantic import JsonValue

from dora_core.atomic import atomic_write
from trainer import locks
from trainer.failures import Failure, classify
from trainer.home import Home
from trainer.queue import Job, Kind, Outcome, Queue, read_job
from trainer.run_dir import RunDir
from trainer.status import read_status

EXIT_BUSY = 75  # EX_TEMPFAIL of sysexits.h: another process runs this job
EXIT_GONE = 74  # the job has been taken back before this process was ready

Handler = Callable[[Sequence[RunDir], Mapping[str, JsonValue]], None]

# kind -> "module:function" that runs it
HANDLERS: dict[Kind, str] = {
    "train": "trainer.job:train",
    "twin": "trainer.job:train",
    "sample": "trainer.resample:run_job",
    "compare": "trainer.compare.job:run_job",
    "export": "trainer.export_job:run_job",
}


def main(arguments: Sequence[str]) -> int:
    path = Path(arguments[0]).absolute()
    queue = Queue(Home(path.parent.parent.parent))
    if (job := read_job(path)) is None:
        return EXIT_GONE
    queue.lock_file(job).parent.mkdir(exist_ok=True)
    try:
        with locks.hold(queue.lock_file(job)):
            return run(queue, job) if path.exists() else EXIT_GONE
    except locks.LockHeldError:
        return EXIT_BUSY


def run(queue: Queue, job: Job) -> int:
    """Run the job; its outcome is on disk when this returns. The one place that turns its exceptions into words."""
    runs = [RunDir(path) for path in job.runs]
    try:
        for each in runs:
            each.require()
        find_handler(job.kind)(runs, job.parameters)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every failure becomes a sentence and a fix
        failure = classify(error)
        print(failure.trace, file=sys.stderr)
        write_outcome(queue.outcome_file(job), 1, failure)
        return 1
    write_outcome(queue.outcome_file(job), 0, Failure("", "", ""))
    return 0


def find_handler(kind: Kind) -> Handler:
    module, _, name = HANDLERS[kind].partition(":")
    return getattr(import_module(module), name)


def train(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    """Train the runs one after the other. A stop ends the job: the second twin is not begun then."""
    import_module("trainer.quiet").quiet_libraries()  # first: they print while they are imported, too
    session = import_module("trainer.session")
    for run_dir in runs:
        with output_to(run_dir.log_file):
            session.run_training(run_dir)
        if read_status(run_dir).state != "finished":
            return


@contextmanager
def output_to(path: Path) -> Generator[None, None, None]:
    """Append everything that this process and its libraries print to a file, for the block."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, stream)
            os.close(descriptor)


def write_outcome(path: Path, code: int, failure: Failure) -> None:
    path.parent.mkdir(exist_ok=True)
    outcome = Outcome(at=time.time(), code=code, sentence=failure.sentence, fix=failure.fix, trace=failure.trace)
    with atomic_write(path) as file:
        file.write(outcome.model_dump_json().encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
