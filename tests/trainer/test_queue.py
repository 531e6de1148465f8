"""A job is submitted once, claimed once, and stands in one folder."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.home import VARIABLE, Home
from trainer.processes import Identity
from trainer.queue import KEEP_DONE, Outcome, Queue
from trainer.run_dir import RunDir

ROOT = Path(__file__).parents[2]
SUBMIT = """
import sys
from pathlib import Path
from trainer.home import Home
from trainer.queue import Queue
queue = Queue(Home(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
for click in range(25):
    print(queue.submit("export", [Path(f"/runs/{click}")], key=f"click {click}").id)
"""
CLAIM = """
import sys
from pathlib import Path
from trainer.home import Home
from trainer.queue import Queue
queue = Queue(Home(Path(sys.argv[1])))
while (job := queue.claim("cpu")) is not None:
    print(job.id)
"""
DONE = Outcome(at=1, code=0)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(Home(tmp_path))


@pytest.fixture
def run(queue: Queue) -> RunDir:
    return RunDir.make(queue.home.runs, "x", {"run.toml": b""})


def test_clicks_that_reach_two_processes_at_once_make_one_job_each(queue: Queue) -> None:
    command = [sys.executable, "-c", SUBMIT, str(queue.home.path)]
    pages = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for page in pages:
        assert page.stdout is not None
        page.stdout.readline()
    for page in pages:
        assert page.stdin is not None
        page.stdin.write("go\n")
        page.stdin.flush()
    ids = [page.communicate()[0].split() for page in pages]
    assert ids[0] == ids[1] == [entry.job.id for entry in queue.list_jobs()]
    assert len(ids[0]) == 25


def test_a_request_that_is_retried_after_the_job_is_done_makes_no_second_one(queue: Queue, run: RunDir) -> None:
    first = queue.submit("train", [run.path], key="a click")
    queue.claim("cpu")
    queue.finish(first, DONE)
    assert queue.submit("train", [run.path], key="a click").id == first.id
    assert queue.submit("train", [run.path], key="another click").id != first.id


def test_the_same_job_is_not_queued_twice_while_it_waits_or_runs_but_again_after(queue: Queue, run: RunDir) -> None:
    first = queue.submit("sample", [run.path], {"seed": 1})
    assert queue.submit("sample", [run.path], {"seed": 1}).id == first.id
    assert queue.submit("sample", [run.path], {"seed": 2}).id != first.id
    claimed = queue.claim("cpu")
    assert claimed is not None
    assert queue.submit("sample", [run.path], {"seed": 1}).id == claimed.id == first.id
    queue.finish(claimed, DONE)
    assert queue.submit("sample", [run.path], {"seed": 1}).id != first.id


def test_several_workers_claim_every_job_once(queue: Queue) -> None:
    submitted = [queue.submit("export", [Path(f"/runs/{number}")]).id for number in range(12)]
    command = [sys.executable, "-c", CLAIM, str(queue.home.path)]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    claimed = [name for worker in workers for name in worker.communicate()[0].split()]
    assert sorted(claimed) == submitted
    assert queue.claim("cpu") is None


def test_jobs_come_in_the_order_in_which_they_were_submitted(queue: Queue) -> None:
    submitted = [queue.submit("export", [Path(f"/runs/{number}")]) for number in range(5)]
    claimed = [queue.claim("cpu") for _ in submitted]
    assert [job.id for job in claimed if job] == [job.id for job in submitted]


def test_a_reader_sees_every_job_in_every_list_while_jobs_move_on(queue: Queue) -> None:
    jobs = [queue.submit("export", [Path(f"/runs/{number}")]) for number in range(20)]

    def move() -> None:
        while (job := queue.claim("cpu")) is not None:
            queue.finish(job, DONE)

    with ThreadPoolExecutor(2) as pool:
        moving = pool.submit(move)
        counts = [len(queue.list_jobs())]
        while not moving.done():
            counts.append(len(queue.list_jobs()))
        moving.result()
    assert set(counts) == {len(jobs)}


def test_a_waiting_job_can_be_taken_off_and_a_claimed_one_cannot(queue: Queue, run: RunDir) -> None:
    first, second = queue.submit("train", [run.path]), queue.submit("export", [run.path])
    assert queue.claim("cpu") is not None
    assert queue.cancel(first) is False
    assert queue.cancel(second) is True
    assert [(entry.job.kind, entry.state) for entry in queue.list_jobs()] == [("train", "claimed"), ("export", "done")]


def test_a_new_job_forgets_requests_that_a_killed_process_never_answered(queue: Queue, run: RunDir) -> None:
    run.request("stop")
    queue.submit("sample", [run.path])
    assert run.requested("stop")
    queue.submit("train", [run.path])
    assert not run.requested("stop")


def test_place_of_a_run_waiting_claimed_and_behind_its_twin(queue: Queue, run: RunDir) -> None:
    twin = RunDir.make(queue.home.runs, "y", {"run.toml": b""})
    assert queue.place(run) is None
    job = queue.submit("twin", [run.path, twin.path])
    places = [queue.place(run), queue.place(twin)]
    assert [place.state for place in places if place] == ["waiting", "waiting"]
    claimed = queue.claim("cpu")
    assert claimed is not None
    queue.record(claimed, Identity.of())  # a process that is alive
    places = [queue.place(run), queue.place(twin)]
    assert [place.state for place in places if place] == ["claimed", "behind"]
    queue.finish(claimed, DONE)
    assert queue.place(run) is None
    assert queue.list_jobs()[0].job.id == job.id


def test_a_claim_whose_worker_and_process_are_dead_counts_for_nothing(queue: Queue, run: RunDir) -> None:
    queue.submit("train", [run.path])
    claimed = queue.claim("cpu")
    assert claimed is not None
    me = Identity.of()
    queue.record(claimed, Identity(me.pid, me.create_time - 3600, me.host))  # the pid is used by another process now
    assert queue.place(run) is None


def test_a_job_of_another_kind_says_nothing_about_the_run(queue: Queue, run: RunDir) -> None:
    queue.submit("compare", [run.path])
    assert queue.place(run) is None


def test_a_file_that_is_no_job_is_left_alone(queue: Queue) -> None:
    (queue.home.queue / "waiting" / "0.json").write_text("{")
    (queue.home.queue / "waiting" / "notes.txt").write_text("mine")
    assert queue.list_jobs() == []
    assert queue.claim("cpu") is None
    assert len(list((queue.home.queue / "waiting").iterdir())) == 2


def test_old_jobs_are_forgotten_with_their_logs(queue: Queue) -> None:
    first = queue.submit("export", [Path("/runs/0")])
    queue.claim("cpu")
    queue.log_file(first).parent.mkdir()
    queue.log_file(first).write_text("log")
    queue.finish(first, DONE)
    for number in range(KEEP_DONE):
        job = first.model_copy(update={"id": f"{time.time_ns():020d}-{number}"})
        (queue.home.queue / "done" / f"{job.id}.json").write_text(job.model_dump_json())
    last = queue.submit("export", [Path("/runs/last")])
    queue.claim("cpu")
    queue.finish(last, DONE)
    ids = [entry.job.id for entry in queue.list_jobs()]
    assert (len(ids), first.id in ids, last.id in ids) == (KEEP_DONE, False, True)
    assert not queue.log_file(first).exists()


def test_home_is_the_option_else_the_environment_else_the_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "environment"))
    assert Home.find(tmp_path / "option").path == tmp_path / "option"
    assert Home.find().path == tmp_path / "environment"
    monkeypatch.delenv(VARIABLE)
    assert Home.find().path.name == "dora-studio"
