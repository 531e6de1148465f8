"""A disk that fills up during any write: the error is told as such, and what was there before is still whole.

The size that a file may have (RLIMIT_FSIZE) is lowered in a process of its own, to every point within what is written.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.disk import DiskFullError, free_bytes, require_free
from trainer.failures import classify

ROOT = Path(__file__).parents[2]

# What is written (`write`), beginning with what was there before, and what must be true whenever it fails (`intact`).
WRITES = {
    "an event": """
log = EventLog(root / "events.jsonl")
log.append(Saved(step=1, folder="first"))
def write(): log.append(Saved(step=2, folder="x" * 60))
def intact():
    unlimited()
    log.append(Saved(step=3, folder="third"))
    steps = [event.step for event in read_events(log.path)[0]]
    log.path.unlink()
    log.append(Saved(step=1, folder="first"))
    return steps == [1, 3]
""",
    "a row of metrics": """
log = MetricsLog(root / "metrics.jsonl")
log.append(StepMetrics(step=1, loss=1, seconds=1))
def write(): log.append(StepMetrics(step=2, loss=1, seconds=1))
def intact(): return [row.step for row in read_metrics(log.path)[0]] == [1]
""",
    "a run directory": """
def write(): RunDir.make(root / "runs", "x", {"run.toml": b"x" * 200})
def intact(): return list((root / "runs").iterdir()) == []
""",
    "a run's other name": """
run = store.create(config)
def write(): store.rename(run, "another " * 20)
def intact(): return store.config(run) == config and list(run.path.glob(".*")) == []
""",
    "a clone": """
run = store.create(config)
def write(): store.clone(run, "another")
def intact(): return [listed.run.id for listed in store.list_runs()] == [run.id]
""",
    "an exit record": """
run = RunDir.make(root / "runs", "x", {"run.toml": b""})
record = ExitRecord(at=1, code=1, sentence="first", fix="")
run.write_exit(record)
def write(): run.write_exit(ExitRecord(at=1, code=1, sentence="second", fix=""))
def intact(): return run.read_exit() == record
""",
    "a new job": """
def write(): queue.submit("export", [root])
def intact(): return queue.list_jobs() == [] and queue.claim("cpu") is None
""",
    "a claim": """
queue.submit("export", [root])
def write(): queue.claim("cpu")
def intact(): return [entry.state for entry in queue.list_jobs()] == ["waiting"]
""",
    "the end of a job": """
queue.submit("export", [root])
job = queue.claim("cpu")
def write(): queue.finish(job, Outcome(at=1, code=0, sentence="x" * 100))
def intact(): return [(entry.state, entry.job) for entry in queue.list_jobs()] == [("claimed", job)]
""",
    "the outcome of a job": """
job = queue.submit("export", [root])
def write(): write_outcome(queue.outcome_file(job), 1, Failure("x", "y", "z"))
def intact(): return queue.read_outcome(job) is None
""",
}
PRELUDE = """
import resource, signal, sys
from pathlib import Path
from trainer.config import RunConfig
from trainer.config_data import DataConfig
from trainer.config_sections import ModelConfig
from trainer.events import EventLog, MetricsLog, Saved, StepMetrics, read_events, read_metrics
from trainer.failures import Failure, classify
from trainer.home import Home
from trainer.job import write_outcome
from trainer.queue import Outcome, Queue
from trainer.run_dir import ExitRecord, RunDir
from trainer.store import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails, as on a full disk, instead of killing us
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
unlimited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
root = Path(sys.argv[1])
store = Store(Home(root))
queue = store.queue
config = RunConfig(name="x", model=ModelConfig(base="base"), data=DataConfig(folder=root))
"""
TO_EVERY_POINT = """{write}
failures = 0
for limit in range(0, 20000, 13):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        write()
    except OSError as error:
        unlimited()
        failures += 1
        assert classify(error).category == "disk full", error
        assert intact(), limit
    else:
        break
print(failures)
"""
WORKER = """
import time
from trainer.devices import Device
from trainer.worker import Slot

queue.submit("sample", [root])
slot = Slot(queue, Device("cpu"), lambda file: [sys.executable, "-c", "raise SystemExit(3)"])
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
assert slot.advance(), "a job that waits keeps the worker here"
assert [entry.state for entry in queue.list_jobs()] == ["waiting"]
unlimited()
slot.advance()
slot.process.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
assert all([slot.advance() for _ in range(3)])
assert [entry.state for entry in queue.list_jobs()] == ["claimed"]
unlimited()
slot.advance()
print([(entry.state, entry.job.outcome.code) for entry in queue.list_jobs()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a thing of POSIX")
@pytest.mark.parametrize("what", WRITES)
def test_a_disk_that_is_full_within_a_write_leaves_what_was_there(tmp_path: Path, what: str) -> None:
    assert int(run_in_child(tmp_path, TO_EVERY_POINT.replace("{write}", WRITES[what]))) >= 5


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a thing of POSIX")
def test_a_worker_on_a_full_disk_waits_and_forgets_no_job(tmp_path: Path) -> None:
    assert run_in_child(tmp_path, WORKER).strip() == "[('done', 3)]"


def run_in_child(root: Path, script: str) -> str:
    run = [sys.executable, "-c", PRELUDE + script, str(root)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_room_is_asked_for_before_it_is_needed_and_the_message_has_the_figures(tmp_path: Path) -> None:
    require_free(tmp_path, 1000, "a checkpoint", margin_bytes=0)
    with pytest.raises(DiskFullError, match=r"a checkpoint needs .* MiB") as caught:
        require_free(tmp_path / "not" / "yet there", free_bytes(tmp_path), "a checkpoint")
    assert classify(caught.value).category == "disk full"
    assert "a checkpoint needs" in classify(caught.value).sentence
