"""Ways through the whole page in a real browser: from the first visit to the file, by keyboard, on a phone, in tabs."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.frame import PLACES
from tests.app.conftest import OpenPage, Server, running
from tests.app.made_runs import append_step, config, made, sample
from trainer.events import Phase
from trainer.home import Home
from trainer.queue import UNDONE, Queue
from trainer.run_dir import RunDir

pytestmark = pytest.mark.browser
TRAINING_MS = 300_000  # two processes that load torch and the starter, on a busy machine
DRAWING_MS = 150_000
TABS = 6  # of one browser, which has six connections to a server
# Of what is seen in a place: whatever can be used, and has no name that a screen reader could say.
UNNAMED = """place => [...document.querySelectorAll(`#place-${place} :is(button, input, select, textarea, a, summary)`)]
  .filter((each) => each.checkVisibility() && each.type !== 'hidden')
  .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim() || each.title))
  .map((each) => each.outerHTML)"""
NAME = "each => each.labels?.[0]?.innerText || each.innerText || ''"
# How often each widget was drawn, by its name.
REVISIONS = """Object.fromEntries([...document.querySelectorAll('[data-rev]')]
  .map((each) => [each.querySelector('section').className, Number(each.dataset.rev)]))"""
STILL = ("sample-matrix", "health", "run-log", "header")


def at(page: Page, place: str) -> Page:
    expect(page.get_by_role("tab", name=PLACES[place])).to_have_attribute("aria-selected", "true")
    expect(page.locator(f"#place-{place} [data-rev]").first).to_be_visible()
    return page


def go(page: Page, place: str) -> None:
    page.get_by_role("tab", name=PLACES[place]).click()
    at(page, place)


def set_advanced(page: Page, **values: str) -> None:
    """Settings by their keys, with __ for the dot."""
    page.locator("#setup .advanced summary").click()
    for name, value in values.items():
        page.locator(f'[id="set-{name.replace("__", ".")}"]').fill(value)
    expect(page.locator("#setup .state")).to_have_text("saved")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Server, None, None]:
    """Nobody was here before."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with running(tmp_path / "home") as started:
        yield started


def test_from_the_first_visit_to_the_file_of_a_trained_twin(fresh: Server, open_page: OpenPage) -> None:
    page = at(open_page(fresh.url), "images")
    expect(page.locator("#captions .card")).to_have_count(16)
    page.get_by_role("button", name="Continue to Setup").click()
    expect(page.get_by_role("radio", name="Starter, DoRA")).to_be_checked()
    page.get_by_text("Both", exact=True).click()
    page.get_by_label("Steps", exact=True).fill("3")
    tiny = {"adapter__rank": "2", "train__batch_size": "1", "sample__steps": "2", "sample__prompts": "a rocket"}
    set_advanced(page, **tiny)
    page.get_by_role("button", name="Start both runs").click()
    page.wait_for_url("**place=train*")

    runs = [trained(page, kind) for kind in ("LoRA", "DoRA")]
    go(page, "compare")
    expect(page.locator("#compare .told")).to_have_text("3 pictures: 1 row by 3 columns.")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#comparison .cell")).to_have_count(3, timeout=DRAWING_MS)

    go(page, "adapters")
    for run in runs:
        (file,) = (fresh.home / "runs" / run / "exports").glob("*.safetensors")
        article = page.get_by_role("article", name=file.name)
        expect(article.locator(".badge")).to_have_text("proven")
        with page.expect_download() as saved:
            article.get_by_role("link", name="Download").click()
        assert saved.value.suggested_filename == file.name
        assert saved.value.path().read_bytes() == file.read_bytes()


def trained(page: Page, kind: str) -> str:
    """Of the twins the one of that kind, once the page shows that it has finished: its id."""
    page.get_by_role("navigation", name="Twin runs").get_by_role("button", name=kind).click()
    expect(page.locator("#run-card .about")).to_contain_text(f"{kind}, rank 2")
    expect(page.locator("#run-card .pill")).to_have_text("finished", timeout=TRAINING_MS)
    expect(page.locator("#sample-matrix .row:not(.head) .step")).to_have_text(["0", "3"])
    return Path(page.locator("#run-card .path span").inner_text()).name


def test_the_keyboard_alone_leads_from_the_pictures_to_a_run(idle: Server, home: Home, open_page: OpenPage) -> None:
    page = at(open_page(idle.url), "images")
    page.get_by_role("tab", name=PLACES["images"]).focus()
    tab_to(page, "Continue to Setup")
    page.keyboard.press("Enter")
    at(page, "setup")
    tab_to(page, "Starter, DoRA")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Starter, LoRA")).to_be_checked()
    tab_to(page, "Steps")
    page.keyboard.press("Control+a")
    page.keyboard.type("7")
    expect(page.locator("#setup .state")).to_have_text("saved")
    tab_to(page, "Start training")
    page.keyboard.press("Enter")
    at(page, "train")
    expect(page.locator("#run-card .pill")).to_have_text("queued")
    entry = Queue(home).list_jobs(UNDONE)[-1]
    assert "steps = 7" in RunDir(entry.job.runs[0]).config_file.read_text()
    tab_to(page, "Take off the queue")
    page.keyboard.press("Enter")
    expect(page.locator("#run-card .pill")).to_have_text("new")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has that name has the focus."""
    for _ in range(150):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() and focused.evaluate(NAME).startswith(name):
            return
    raise AssertionError(f"Tab does not lead to {name!r}")


def test_a_tour_of_all_places_opens_everything_and_asks_nobody_else(host: Server, open_page: OpenPage) -> None:
    """That no request leaves the machine and no error is in the console is what every page here is watched for."""
    page = open_page(host.url)
    for place in PLACES:
        go(page, place)
        folded = page.locator(f"#place-{place} details:not([open]) > summary:visible")
        while folded.count():
            folded.first.press("Enter")  # what opens over it may cover the next
        assert page.evaluate(UNNAMED, place) == []
    page.reload()
    at(page, "adapters")


@pytest.mark.parametrize("place", PLACES)
def test_a_phone_reaches_every_place_and_scrolls_down_only(host: Server, open_page: OpenPage, place: str) -> None:
    page = open_page(f"{host.url}?place={'images' if place != 'images' else 'setup'}", width=390, height=844)
    tab = page.get_by_role("tab", name=PLACES[place])
    tab.click()
    expect(page.locator(f"#place-{place} [data-rev]").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_of_a_long_run_every_tab_gets_what_is_new_and_nothing_else(
    idle: Server, home: Home, open_page: OpenPage
) -> None:
    run = made(home, config(steps=20_000), [Phase(name="training")], steps=10_001)
    sample(run, 10_000)
    with run.hold():
        pages = [open_page(f"{idle.url}?place=train&run={run.id}") for _ in range(TABS)]
        for page in pages:
            expect(page.locator("#run-card dd").first).to_have_text("10,001 / 20,000")
            expect(page.locator("#sample-matrix .cell").first).to_be_visible()
        before = [page.evaluate(REVISIONS) for page in pages]
        for step in range(10_002, 10_005):
            append_step(run, step)
            for page in pages:
                expect(page.locator("#run-card dd").first).to_have_text(f"{step:,} / 20,000")
        for page, was in zip(pages, before, strict=True):
            now = page.evaluate(REVISIONS)
            assert now["run-card"] > was["run-card"]
            assert {name: now[name] for name in STILL} == {name: was[name] for name in STILL}
