"""Jobs run in the background, one a device, and whatever is killed, what the disk says afterwards is true."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from trainer import locks
from trainer.devices import Card, Device, Driver, devices
from trainer.home import Home
from trainer.locks import is_locked
from trainer.processes import Identity
from trainer.queue import Job
from trainer.run_dir import RunDir, tail
from trainer.store import Store
from trainer.worker import ensure_worker

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60


@dataclass
class Bench:
    """A home with runs whose jobs only pretend to train (dummy_job.py), and workers that start those."""

    store: Store
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    def run(self, how: str = "", steps: int = 4) -> RunDir:
        made = RunDir.make(self.store.home.runs, how or "well", {"run.toml": how.encode()})
        self.store.queue.submit("train", [made.path], {"steps": steps})
        return made

    def work(self, *names: str, idle_seconds: float = 0) -> subprocess.Popen[bytes]:
        arguments = [str(self.store.home.path), str(idle_seconds), *(names or ("cpu",))]
        command = [sys.executable, "-m", "tests.trainer.dummy_job", "worker", *arguments]
        self.workers.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True))
        return self.workers[-1]

    def state(self, run: RunDir) -> str:
        return self.store.status(run).state

    def jobs(self) -> list[tuple[str, int | None]]:
        entries = self.store.queue.list_jobs()
        return [(entry.state, entry.job.outcome.code if entry.job.outcome else None) for entry in entries]

    def only_job(self) -> Job:
        return self.store.queue.list_jobs()[0].job

    def only_process(self) -> psutil.Process:
        claim = self.only_job().claim
        assert claim is not None
        process = Identity(claim.pid or 0, claim.create_time, claim.host).process()
        assert process is not None
        return process


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench, None, None]:
    made = Bench(Store(Home(tmp_path)))
    yield made
    for worker in made.workers:
        worker.kill()
        worker.wait()
    for entry in made.store.queue.list_jobs():
        if (claim := entry.job.claim) and (
            process := Identity(claim.pid or 0, claim.create_time, claim.host).process()
        ):
            process.kill()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_jobs_run_one_after_the_other_and_the_worker_leaves(bench: Bench) -> None:
    runs = [bench.run(), bench.run()]
    assert [bench.state(run) for run in runs] == ["queued"] * 2
    assert bench.work().wait(WAIT_SECONDS) == 0
    assert [bench.state(run) for run in runs] == ["finished"] * 2
    assert bench.jobs() == [("done", 0)] * 2
    first, second = (entry.job for entry in bench.store.queue.list_jobs())
    assert first.outcome is not None
    assert second.claim is not None
    assert second.claim.at >= first.outcome.at
    assert "training begins" in tail(runs[0].log_file)
    assert not is_locked(bench.store.home.worker_lock)


def test_there_is_one_worker_however_many_are_started(bench: Bench) -> None:
    run = bench.run(steps=10_000)
    workers = [bench.work() for _ in range(3)]
    wait_until(lambda: sum(worker.poll() is not None for worker in workers) == 2)
    assert is_locked(bench.store.home.worker_lock)
    wait_until(lambda: bench.state(run) == "training")
    bench.store.stop(run)
    wait_until(lambda: all(worker.poll() is not None for worker in workers))
    assert sorted(worker.returncode for worker in workers) == [0, 1, 1]
    assert bench.state(run) == "stopped"
    assert tail(run.log_file).count("training begins") == 1


def test_as_many_jobs_run_at_once_as_there_are_devices(bench: Bench) -> None:
    runs = [bench.run(steps=1000) for _ in range(3)]
    bench.work("a", "b")
    wait_until(lambda: [bench.state(run) for run in runs] == ["training", "training", "queued"])
    claims = [entry.job.claim for entry in bench.store.queue.list_jobs()]
    assert {claim.device for claim in claims if claim} == {"a", "b"}
    bench.store.stop(runs[0])
    wait_until(lambda: [bench.state(run) for run in runs] == ["stopped", "training", "training"])


def test_when_the_worker_is_killed_the_job_goes_on_and_the_next_worker_takes_it_over(bench: Bench) -> None:
    run, after = bench.run(steps=60), bench.run()
    worker = bench.work()
    wait_until(lambda: bench.state(run) == "training")
    process = bench.only_process()
    worker.kill()
    worker.wait()
    assert bench.state(run) == "training"
    assert bench.state(after) == "queued"
    assert bench.work().wait(WAIT_SECONDS) == 0
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)  # init collects it later
    assert [bench.state(each) for each in (run, after)] == ["finished"] * 2
    assert bench.jobs() == [("done", 0)] * 2
    assert tail(run.log_file).count("training begins") == 1
    # the device was taken until then
    first, second = (entry.job for entry in bench.store.queue.list_jobs())
    assert first.outcome is not None
    assert second.claim is not None
    assert second.claim.at >= first.outcome.at


def test_when_the_job_is_killed_the_run_is_interrupted_and_says_by_what(bench: Bench) -> None:
    run = bench.run("kill")
    assert bench.work().wait(WAIT_SECONDS) == 0
    status = bench.store.status(run)
    assert (status.state, "killed by the system" in status.message) == ("interrupted", True)
    assert "begins anew" in status.fix
    record = run.read_exit()
    assert record is not None
    assert (record.code, "training begins" in record.tail) == (-9, True)


def test_when_both_are_killed_nothing_needs_repair(bench: Bench) -> None:
    run = bench.run(steps=1000)
    worker = bench.work()
    wait_until(lambda: bench.state(run) == "training")
    process = bench.only_process()
    for victim in (worker, process):
        victim.kill()
    worker.wait()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert bench.state(run) == "interrupted"  # from the disk alone: no worker runs
    assert bench.work().wait(WAIT_SECONDS) == 0
    assert bench.jobs() == [("done", None)]
    assert bench.state(run) == "interrupted"
    bench.store.queue.submit("train", [run.path], {"steps": 2})
    assert bench.state(run) == "queued"
    assert bench.work().wait(WAIT_SECONDS) == 0
    assert bench.state(run) == "finished"


def test_a_job_that_was_claimed_but_never_started_is_run_by_the_next_worker(bench: Bench) -> None:
    run = bench.run()
    assert bench.store.queue.claim("cpu") is not None  # and here the worker was killed
    assert bench.state(run) == "new"
    assert bench.work().wait(WAIT_SECONDS) == 0
    assert bench.state(run) == "finished"


def test_a_job_that_raises_has_failed_with_its_sentence_and_its_trace(bench: Bench) -> None:
    run = bench.run("crash")
    assert bench.work().wait(WAIT_SECONDS) == 0
    status = bench.store.status(run)
    assert (status.state, "base.safetensors" in status.message) == ("failed", True)
    outcome = bench.only_job().outcome
    assert outcome is not None
    assert (outcome.code, "base.safetensors" in outcome.sentence) == (1, True)
    assert "dummy_job.py" in outcome.trace


def test_a_job_that_cannot_even_begin_has_failed_too(bench: Bench) -> None:
    run = RunDir.make(bench.store.home.runs, "x", {"run.toml": b""})
    bench.store.queue.submit("train", [run.path])  # the dummy misses its parameter
    assert bench.work().wait(WAIT_SECONDS) == 0
    status = bench.store.status(run)
    assert (status.state, "KeyError" in status.message) == ("failed", True)


def test_stop_saves_a_second_stop_kills_and_a_third_is_no_error(bench: Bench) -> None:
    run = bench.run("child", steps=100_000)
    bench.work(idle_seconds=WAIT_SECONDS)
    wait_until(lambda: "child" in tail(run.log_file) and bench.state(run) == "training")
    child = psutil.Process(int(tail(run.log_file).split("child ")[1].split()[0]))
    process = bench.only_process()
    process.suspend()  # it hangs, and will not answer
    assert "saves" in bench.store.stop(run)
    assert bench.state(run) == "stopping"
    assert bench.store.stop(run) == "Ended at once."
    wait_until(lambda: bench.jobs() == [("done", -9)])
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    status = bench.store.status(run)
    assert (status.state, "asked to stop twice" in status.message) == ("interrupted", True)
    assert bench.store.stop(run) == "It is not running."


def test_a_stop_while_it_is_still_starting_is_not_lost(bench: Bench) -> None:
    run = bench.run(steps=100_000)
    bench.work()
    wait_until(lambda: bench.state(run) != "queued")
    bench.store.stop(run)
    wait_until(lambda: bench.state(run) == "stopped")


def test_a_run_is_watched_from_the_queue_to_its_end(bench: Bench) -> None:
    run, broken = bench.run(steps=60), bench.run("crash")
    watching = [watch(bench, run.id), watch(bench, "crash")]
    assert {one.stdout.readline() for one in watching if one.stdout} == {"queued: Waiting for its turn\n"}
    bench.work()
    (well, _), (ill, _) = (one.communicate(timeout=WAIT_SECONDS) for one in watching)
    assert [one.returncode for one in watching] == [0, 1]
    assert "training  step " in well
    assert well.splitlines()[-1] == "finished  step 60 of 60: Finished"
    assert "Traceback" not in ill
    assert ill.splitlines()[-1].startswith("failed")
    assert "base.safetensors" in ill
    assert bench.state(broken) == "failed"


def test_ctrl_c_ends_the_watching_and_not_the_run(bench: Bench) -> None:
    run = bench.run(steps=100_000)
    bench.work()
    watching = watch(bench, "last")
    assert watching.stdout is not None
    next(line for line in watching.stdout if line.startswith("training"))
    watching.send_signal(signal.SIGINT)
    said, _ = watching.communicate(timeout=WAIT_SECONDS)
    assert (watching.returncode, f"runs stop {run.id}" in said, "Traceback" in said) == (0, True, False)
    assert bench.state(run) == "training"


def watch(bench: Bench, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.cli", "runs", "watch", name, "--home", str(bench.store.home.path)]
    # A shell that runs these tests in the background has them ignore Ctrl-C, and their children with them.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_a_job_sees_its_own_card_and_no_other(bench: Bench) -> None:
    runs = [bench.run(steps=1000) for _ in range(2)]
    bench.work("GPU-a", "GPU-b")
    wait_until(lambda: all("sees" in tail(run.log_file) for run in runs))
    assert {tail(run.log_file).split("sees ")[1].split()[0] for run in runs} == {"GPU-a", "GPU-b"}


def test_stopping_what_waits_takes_it_off_the_queue(bench: Bench) -> None:
    run = bench.run()
    assert bench.store.stop(run) == "Taken off the queue."
    assert bench.state(run) == "new"
    assert bench.store.stop(run) == "It is not running."


def test_twins_run_one_after_the_other_and_a_stop_of_the_second_waits_for_its_turn(bench: Bench) -> None:
    first, second = (RunDir.make(bench.store.home.runs, name, {"run.toml": b""}) for name in ("lora", "dora"))
    bench.store.queue.submit("twin", [first.path, second.path], {"steps": 60})
    bench.work()
    wait_until(lambda: [bench.state(run) for run in (first, second)] == ["training", "queued"])
    bench.store.stop(second)
    assert "turn" in bench.store.stop(second)  # asked twice, it must not take its twin with it
    wait_until(lambda: [bench.state(run) for run in (first, second)] == ["finished", "stopped"])


def test_ensure_worker_starts_one_and_only_one_and_leaves_no_zombie(bench: Bench) -> None:
    home = bench.store.home
    assert ensure_worker(home) is True
    wait_until(lambda: is_locked(home.worker_lock))
    assert ensure_worker(home) is False
    worker = next(each for each in psutil.Process().children() if "trainer.worker" in each.cmdline())
    worker.kill()
    wait_until(lambda: not is_locked(home.worker_lock) and not worker.is_running())


def test_a_job_added_while_the_worker_leaves_finds_it_gone_or_staying(bench: Bench) -> None:
    for _ in range(2):
        worker = bench.work(idle_seconds=0)
        run = bench.run(steps=1)
        if not is_locked(bench.store.home.worker_lock) and worker.poll() is not None:
            assert bench.work().wait(WAIT_SECONDS) == 0
        assert worker.wait(WAIT_SECONDS) == 0
        assert bench.state(run) == "finished"


CARD = Card("GPU-1", "A card", 24000, 100, 40, "8.9")


@pytest.mark.parametrize(
    ("environment", "cards", "names"),
    [
        ({}, (), ["cpu"]),
        ({}, (CARD, CARD), ["GPU-1", "GPU-1"]),
        ({"CUDA_VISIBLE_DEVICES": "2, 0"}, (CARD,), ["2", "0"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, (CARD,), ["cpu"]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, (CARD,), ["cpu"]),
    ],
)
def test_devices_are_the_cards_that_this_process_may_use(
    environment: dict[str, str], cards: tuple[Card, ...], names: list[str]
) -> None:
    found = devices(environment, Driver("1", cards))
    assert [device.name for device in found] == names
    assert all(device == Device("cpu") or device.environment["CUDA_VISIBLE_DEVICES"] == device.name for device in found)


def test_a_lock_that_nobody_holds_is_free_even_if_its_file_is_there(tmp_path: Path) -> None:
    with locks.hold(tmp_path / "lock"):
        pass
    assert not is_locked(tmp_path / "lock")
