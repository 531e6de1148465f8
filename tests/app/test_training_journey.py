"""A real run on the starter, watched in the page while everything around it is killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.conftest import OpenPage, Server, Watch, running
from tests.app.made_runs import ICONS
from trainer.config_io import parse_config
from trainer.events import Started, read_events
from trainer.home import Home
from trainer.processes import Identity, kill_tree
from trainer.run_dir import RunDir
from trainer.store import Store
from trainer.worker import ensure_worker

pytestmark = pytest.mark.browser
STEPS = 300  # more than are taken while the server starts again
TRUTH_MS = 4000
LOADING_MS = 240_000  # importing torch and the starter on a busy machine


def queued(home: Home) -> RunDir:
    store = Store(home)
    run = store.create(
        parse_config(
            {
                "name": "journey",
                "model": {"base": "starter"},
                "data": {"folder": str(ICONS), "resolution_px": 64, "bucket_step_px": 8, "smallest_side_px": 32},
                "adapter": {"rank": 2},
                "train": {"steps": STEPS, "batch_size": 1, "validation_every_steps": 0},
                "sample": {"prompts": ["a worm, 3d style"], "steps": 2, "every_steps": 150},
                "save": {"every_steps": 10},
            }
        )
    )
    store.requeue(run)
    ensure_worker(home)
    return run


def step_of(page: Page) -> int:
    text = page.locator("#run-card dd").first.inner_text()
    return int(text.split(" / ")[0].replace(",", "")) if "/" in text else 0


def await_step(page: Page, step: int) -> None:
    page.wait_for_function(
        "step => Number(document.querySelector('#run-card .bar')?.getAttribute('aria-valuenow') ?? 0) >= step",
        arg=step,
        timeout=LOADING_MS,
    )


def kill_trainer(run: RunDir) -> None:
    started = [event for event in read_events(run.events_file)[0] if isinstance(event, Started)][-1]
    assert kill_tree(Identity(started.pid, started.create_time, started.host))


def await_saved(run: RunDir, step: int) -> None:
    deadline = time.monotonic() + LOADING_MS / 1000
    while not any((run.checkpoints_dir / f"step-{at:06d}").exists() for at in range(step, STEPS + 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_is_followed_through_refresh_dead_server_and_dead_trainer(
    tmp_path: Path, open_page: OpenPage, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    watch.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"]
    watch.expected += [
        "Connection errored out",
        "Failed to fetch",
        "AbortError",
        "NetworkError",
        "network error",
        "404 (Not Found)",
    ]
    with running(tmp_path / "home") as server:
        run = queued(Home(server.home))
        page = open_page(server.url)
        second = open_page(f"{server.url}?place=train&run={run.id}")
        expect(page.get_by_role("tab", name="3 Train")).to_have_attribute("aria-selected", "true")
        await_step(page, 2)
        page.reload()
        await_step(page, 4)
        expect(page.locator("#sample-matrix .row:not(.head):not(.next) .step").first).to_have_text("0")

        goes_on_after_the_server_died(server, page, second)

        await_saved(run, 10)
        kill_trainer(run)
        for one in (page, second):
            expect(one.locator("#run-card .pill")).to_have_text("interrupted", timeout=TRUTH_MS)
        expect(page.locator("#run-card .fix")).to_contain_text("It goes on from step")
        second.get_by_role("button", name="Resume").click()
        for one in (page, second):
            expect(one.locator("#run-card .pill")).to_have_text("finished", timeout=LOADING_MS)
        assert step_of(page) == STEPS
        expect(page.locator("#sample-matrix .row:not(.head):not(.next) .step")).to_have_text(["0", "150", "300"])
        assert list(run.exports_dir.glob("*.safetensors"))


def goes_on_after_the_server_died(server: Server, *pages: Page) -> None:
    """The trainer does not notice; the pages that were open show the truth again, nothing being clicked."""
    step = step_of(pages[0])
    server.kill()
    server.start()
    for page in pages:
        await_step(page, step + 1)
