"""A job for the worker's tests: a real process with the run's lock, its events and requests, pretending to train.

``python -m tests.trainer.dummy_job FILE`` is such a job, ``... worker HOME IDLE_SECONDS DEVICE...`` a worker that
starts them. The run.toml says what the run does: ``crash``, ``kill`` (itself), ``child`` (start a process), nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from trainer import job, worker
from trainer.devices import VISIBLE, Device
from trainer.events import EventLog, Failed, Finished, MetricsLog, Phase, Started, StepMetrics, Stopped, Stopping
from trainer.failures import classify
from trainer.home import Home
from trainer.processes import Identity
from trainer.run_dir import RunDir

STEP_SECONDS = 0.05


def train(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    for run in runs:
        with job.output_to(run.log_file), run.hold():
            train_one(run, steps=int(str(parameters["steps"])))


def train_one(run: RunDir, steps: int) -> None:
    events, metrics = EventLog(run.events_file), MetricsLog(run.metrics_file)
    me = Identity.of()
    events.append(Started(steps=steps, pid=me.pid, create_time=me.create_time, host=me.host))
    events.append(Phase(name="training"))
    print("training begins, and sees", os.environ.get(VISIBLE), flush=True)
    behave(run.config_file.read_text(), events)
    for step in range(1, steps + 1):
        if run.requested("stop"):
            events.append(Stopping(step=step))
            events.append(Stopped(step=step))
            return
        time.sleep(STEP_SECONDS)
        metrics.append(StepMetrics(step=step, loss=1 / step, seconds=STEP_SECONDS))
    events.append(Finished(step=steps))


def behave(how: str, events: EventLog) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", flush=True)
    if how == "crash":
        error = FileNotFoundError(2, "No such file or directory", "base.safetensors")
        failure = classify(error)
        events.append(Failed(category=failure.category, sentence=failure.sentence, fix=failure.fix))
        raise error


def command(file: Path) -> list[str]:
    return [sys.executable, "-m", "tests.trainer.dummy_job", str(file)]


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == "worker":
        worker.POLL_SECONDS = 0.05
        _, home, idle_seconds, *names = arguments
        worker.serve(Home(Path(home)), [Device(name, {VISIBLE: name}) for name in names], float(idle_seconds), command)
        return 0
    job.HANDLERS["train"] = job.HANDLERS["twin"] = "tests.trainer.dummy_job:train"
    return job.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
