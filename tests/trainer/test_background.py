"""The real thing, once: a tiny run trained in the background, then sampled, exported and compared, by our worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.compare.manifest import read_manifest
from trainer.config_io import parse_config
from trainer.events import Exported, Sampled, read_events
from trainer.home import Home
from trainer.job import HANDLERS, find_handler
from trainer.queue import Kind
from trainer.store import Store
from trainer.worker import ensure_worker

WAIT_SECONDS = 600


@pytest.mark.parametrize("kind", HANDLERS)
def test_every_kind_of_job_has_a_function_that_runs_it(kind: Kind) -> None:
    assert callable(find_handler(kind))


@pytest.mark.slow
def test_a_run_is_trained_sampled_exported_and_compared_in_the_background(
    tmp_path: Path, tiny_base: Callable[[str], Path], picture_folder: Path
) -> None:
    store = Store(Home(tmp_path / "home"))
    settings = {
        "name": "tiny",
        "model": {"base": str(tiny_base("sd1"))},
        "data": {
            "folder": str(picture_folder),
            "instance_prompt": "a thing",
            "resolution_px": 64,
            "smallest_side_px": 32,
        },
        "adapter": {"kind": "dora", "rank": 4},
        "train": {"steps": 2},
        "sample": {"size_px": [32, 32], "steps": 1, "prompts": ["a thing"]},
    }
    run = store.create(parse_config(settings))
    store.requeue(run)
    store.queue.submit("sample", [run.path], {"settings": ['sample.prompts=["another thing"]']})
    store.queue.submit("export", [run.path], {"target": "lycoris"})
    store.queue.submit("compare", [run.path], {"prompts": ["a thing"], "strengths": [0, 1], "steps": [1]})
    ensure_worker(store.home)
    deadline = time.monotonic() + WAIT_SECONDS
    while any(entry.state != "done" for entry in store.queue.list_jobs()):
        assert time.monotonic() < deadline, store.status(run)
        time.sleep(0.2)
    outcomes = [entry.job.outcome for entry in store.queue.list_jobs()]
    assert [(outcome.code, outcome.sentence) for outcome in outcomes if outcome] == [(0, "")] * 4
    status = store.status(run)
    assert (status.state, status.step, status.saved_step) == ("finished", 2, 2)
    exported = [event for event in read_events(run.events_file)[0] if isinstance(event, Exported)]
    assert len(exported) == 2
    assert all((run.path / event.file).is_file() and event.headline for event in exported)
    (asked,) = [e.folder for e in read_events(run.events_file)[0] if isinstance(e, Sampled) and "asked" in e.folder]
    assert len(list((run.path / asked).glob("*.png"))) == 1
    (compared,) = run.grids_dir.iterdir()
    assert [column.strength for column in read_manifest(compared).columns] == [None, 0, 1]
