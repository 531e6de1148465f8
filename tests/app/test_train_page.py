"""The place Train, shown from run directories that the trainer's own classes wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.known_runs import KnownRuns
from tests.app.conftest import OpenPage, Server, until
from tests.app.made_runs import append_step, config, made, made_twins, metrics, row, sample, saved, say
from trainer.events import Event, Failed, Finished, Paused, Phase, Resumed, SkippedStep, Stopped, Stopping, Warned
from trainer.home import Home
from trainer.losses import smoothed
from trainer.queue import Queue
from trainer.run_dir import RunDir

pytestmark = pytest.mark.browser
LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => list.getEntries().forEach((one) => longTasks.push(one.duration)))
  .observe({ type: 'longtask' });
"""


@pytest.fixture
def held() -> Generator[Callable[[RunDir], RunDir], None, None]:
    """Works on a run, for all that its lock says, until the test ends."""
    with ExitStack() as stack:

        def hold(run: RunDir) -> RunDir:
            stack.enter_context(run.hold())
            return run

        yield hold


def look_at(idle: Server, open_page: OpenPage, run: RunDir, **view: int | bool) -> Page:
    page = open_page(f"{idle.url}?place=train&run={run.id}", **view)
    expect(page.locator("#run-card h2").first).not_to_be_empty()
    return page


def choose(page: Page, run: RunDir) -> None:
    """In the list of runs, which may be folded away."""
    page.locator(f'#runs [data-run="{run.id}"]').dispatch_event("click")


State = tuple[Sequence[Event], str, list[str]]  # what the run said, the pill, the buttons
LIVE: list[State] = [
    ([Phase(name="loading")], "preparing", ["Stop & save", "Clone to Setup"]),
    ([], "training", ["Pause", "Sample now", "Save now", "Stop & save", "Clone to Setup"]),
    ([Phase(name="sampling")], "drawing samples", ["Pause", "Sample now", "Save now", "Stop & save", "Clone to Setup"]),
    ([Paused(step=9)], "paused", ["Continue", "Stop & save", "Clone to Setup"]),
    ([Stopping(step=9)], "stopping", ["End at once", "Clone to Setup"]),
]
ENDED: list[State] = [
    ([Stopped(step=9)], "stopped", ["Resume", "Clone to Setup", "Rename", "Delete"]),
    ([saved(9)], "interrupted", ["Resume", "Draw samples", "Clone to Setup", "Rename", "Delete"]),
    ([Finished(step=9)], "finished", ["Clone to Setup", "Rename", "Delete"]),
    ([Failed(sentence="Full.", fix="Less.")], "failed", ["Resume", "Clone to Setup", "Rename", "Delete"]),
]


def test_each_state_of_a_working_run_has_its_pill_and_its_buttons(
    idle: Server, home: Home, open_page: OpenPage, held: Callable[[RunDir], RunDir]
) -> None:
    runs = [held(made(home, events=[Phase(name="training"), *events], steps=9)) for events, _, _ in LIVE]
    each_has_its_pill_and_buttons(look_at(idle, open_page, runs[0]), runs, LIVE)


def test_each_state_of_a_run_that_ended_has_its_pill_and_its_buttons(
    idle: Server, home: Home, open_page: OpenPage
) -> None:
    runs = [made(home, events=events, steps=9) for events, _, _ in ENDED]
    each_has_its_pill_and_buttons(look_at(idle, open_page, runs[0]), runs, ENDED)


def each_has_its_pill_and_buttons(page: Page, runs: Sequence[RunDir], states: Sequence[State]) -> None:
    for run, (_, pill, labels) in zip(runs, states, strict=True):
        choose(page, run)
        expect(page.locator("#run-card .pill")).to_have_text(pill)
        expect(page.locator("#run-card .card .buttons button")).to_have_text(labels)


def test_a_queued_run_tells_how_many_are_before_it_and_leaves_the_queue(
    idle: Server, home: Home, open_page: OpenPage
) -> None:
    first, second = made(home), made(home)
    for run in (first, second):
        Queue(home).submit("train", [run.path])
    page = look_at(idle, open_page, second)
    expect(page.locator("#run-card .message")).to_contain_text("1 job before it")
    page.get_by_role("button", name="Take off the queue").click()
    expect(page.locator("#run-card .pill")).to_have_text("new")
    Queue(home).cancel(Queue(home).list_jobs(["waiting"])[0].job)


def test_a_failure_is_a_sentence_and_a_fix_with_the_trace_folded(idle: Server, home: Home, open_page: OpenPage) -> None:
    evil = "<img src=x onerror=alert(1)> ${alert(1)} {{x}}"
    failed = Failed(sentence=f"The card is full: {evil}", fix="Set Batch to 1.", trace="Traceback: OutOfMemoryError")
    notes = [Warned(text=f"No samples: {evil}"), SkippedStep(step=3, reason="the loss is nan")]
    run = made(home, config(f"mine {evil}"), [*notes, failed], steps=9)
    page = look_at(idle, open_page, run)
    card = page.locator("#run-card")
    expect(card.locator("h2").first).to_have_text(f"mine {evil}")
    expect(card.locator(".message")).to_have_text(f"The card is full: {evil}")
    expect(card.locator(".fix")).to_have_text("Set Batch to 1.")
    expect(card.locator(".trace pre")).not_to_be_visible()
    card.locator(".trace summary").click()
    expect(card.locator(".trace pre")).to_contain_text("OutOfMemoryError")
    expect(card.locator(".warnings summary")).to_have_text("2 notes")


def test_buttons_leave_their_requests_and_a_second_click_of_stop_does_not_kill(
    idle: Server, home: Home, open_page: OpenPage, held: Callable[[RunDir], RunDir]
) -> None:
    run = held(made(home, events=[Phase(name="training")], steps=9))
    page = look_at(idle, open_page, run)
    for label, request in (("Pause", "pause"), ("Sample now", "sample"), ("Save now", "save")):
        page.get_by_role("button", name=label, exact=True).click()
        until((run.control_dir / request).exists)
        expect(page.locator("#run-card .card .said")).not_to_be_empty()
    say(run, Paused(step=9))
    page.get_by_role("button", name="Continue").click()
    until(lambda: not run.requested("pause"))
    expect(page.locator("#run-card .card .said")).to_be_empty()
    say(run, Resumed(step=9))
    page.get_by_role("button", name="Stop & save").dblclick()
    expect(page.get_by_role("button", name="End at once")).to_be_visible()
    assert run.requested("stop")
    assert not run.requested("kill")


def test_rename_clone_delete_and_undo(idle: Server, home: Home, open_page: OpenPage) -> None:
    run = made(home, events=[Stopped(step=9)], steps=9)
    page = look_at(idle, open_page, run)
    page.get_by_role("button", name="Rename", exact=True).click()
    field = page.get_by_role("textbox", name="Name of the run")
    expect(field).to_be_focused()
    field.fill("fox")
    field.press("Enter")
    expect(page.locator("#run-card h2").first).to_have_text("fox")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("This run is in the trash")).to_be_visible()
    assert not run.exists()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#run-card .pill")).to_have_text("stopped")
    page.get_by_role("button", name="Clone to Setup").click()
    expect(page.get_by_role("tab", name="2 Setup")).to_have_attribute("aria-selected", "true")
    assert "Filled from" in (home.path / "draft.toml").read_text(encoding="utf-8")


def test_a_run_deleted_while_it_is_watched_is_told_to_be_gone(idle: Server, home: Home, open_page: OpenPage) -> None:
    run = made(home, events=[Stopped(step=9)], steps=9)
    page = look_at(idle, open_page, run)
    run.path.rename(home.path / "elsewhere")
    expect(page.get_by_text("This run is gone")).to_be_visible()
    page.get_by_role("button", name="Show all runs").click()
    expect(page.get_by_role("searchbox", name="Search runs")).to_be_focused()


def test_settings_that_cannot_be_read_do_not_take_the_run_away(idle: Server, home: Home, open_page: OpenPage) -> None:
    run = made(home, events=[Stopped(step=9)], steps=9)
    run.config_file.write_bytes(b"\xff\x00 = [")
    page = look_at(idle, open_page, run)
    expect(page.locator("#run-card h2").first).to_have_text(run.id)
    expect(page.locator("#run-card .about")).to_have_text("Its settings cannot be read.")


def test_samples_are_a_row_for_each_step_and_open_large(
    idle: Server, home: Home, open_page: OpenPage, held: Callable[[RunDir], RunDir]
) -> None:
    run = held(made(home, events=[Phase(name="training")], steps=250))
    for step in (0, 200):
        sample(run, step)
    sample(run, 200, "asked-000200-abcdef12", ["something else"])
    page = look_at(idle, open_page, run)
    matrix = page.locator("#sample-matrix")
    expect(matrix.locator(".row:not(.head) .step")).to_have_text(["0", "200", "200 asked", "400"])
    expect(matrix.locator(".row.next .cell")).to_have_count(3)
    matrix.get_by_label("Newest first").check()
    expect(matrix.locator(".row:not(.head) .step")).to_have_text(["400", "200 asked", "200", "0"])
    matrix.get_by_role("cell", name="Step 0: a red panda in the snow").click()
    caption = matrix.locator("figcaption")
    expect(caption).to_contain_text("Step 0")
    page.keyboard.press("ArrowRight")
    expect(caption).to_contain_text("Step 200")
    page.keyboard.press("ArrowDown")
    expect(caption).to_contain_text("watercolour")
    box = matrix.locator("dialog").bounding_box()
    assert box is not None
    assert box["y"] == pytest.approx(900 - box["y"] - box["height"], abs=1)  # in the middle of the screen, all of it
    assert box["y"] > 0
    page.keyboard.press("Escape")
    expect(matrix.locator("dialog")).not_to_be_visible()


def test_twins_are_one_switch_and_two_lines(idle: Server, home: Home, open_page: OpenPage) -> None:
    twins = made_twins(home, "icons")
    for twin in twins:
        metrics(twin, 1, 30)
        say(twin, Phase(name="training"), Stopped(step=30))
    page = look_at(idle, open_page, twins[1])
    expect(page.locator("#loss-chart .legend li")).to_have_text(["icons dora", "icons lora"])
    page.get_by_role("navigation", name="Twin runs").get_by_role("button", name="LoRA").click()
    expect(page.locator("#run-card h2").first).to_have_text("icons lora")
    expect(page.locator("#loss-chart .legend li")).to_have_text(["icons lora", "icons dora"])


def test_the_chart_says_in_words_what_it_draws_and_follows_the_keys(
    idle: Server, home: Home, open_page: OpenPage
) -> None:
    other = made(home, config("an older one"), [Stopped(step=40)], steps=40)
    run = made(home, config("this one"), [Stopped(step=300)], steps=300)
    page = look_at(idle, open_page, run)
    chart = page.locator("#loss-chart")
    expect(chart.locator("#loss-summary")).to_contain_text("this one: 300 steps, smoothed loss from")
    expect(chart.locator("#loss-summary")).to_contain_text("Validation 0.124 at step 300")
    chart.locator("canvas").focus()
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".tip")).to_contain_text("step 297")
    chart.get_by_text("Compare with").click()
    chart.get_by_label("an older one").first.check()
    expect(chart.locator("#loss-summary")).to_contain_text("an older one: 40 steps")
    assert other.exists()
    expect(chart.get_by_role("table")).to_be_hidden()
    chart.get_by_label("By timesteps").check()
    expect(chart.locator(".legend li span").first).to_have_text("timesteps 0-25 %")
    expect(chart.locator("#loss-summary")).to_contain_text("Validation 0.0600 at step 300")
    by_hand = smoothed((row(step).band_losses[3] for step in range(1, 301)), keep=1 - 8 / (300 * 0.6))
    expect(chart.get_by_role("row").last.get_by_role("cell")).to_have_text(["75-100 %", f"{by_hand:.4f}", "0.0600"])


def test_the_log_follows_its_end_unless_somebody_reads(
    idle: Server, home: Home, open_page: OpenPage, held: Callable[[RunDir], RunDir]
) -> None:
    run = held(made(home, events=[Phase(name="training")], steps=3))
    with open(run.log_file, "wb") as file:
        file.truncate(200 * 2**20)  # as long as a log may grow; most of it is a hole
        file.seek(0, 2)
        file.write(b"\n" + b"".join(b"line %d \xff\n" % number for number in range(500)))
    page = look_at(idle, open_page, run)
    page.locator("#run-log summary").click()
    box = page.locator("#run-log pre")
    expect(box).to_contain_text("line 499")
    expect(box).not_to_contain_text("line 299 ")
    box.evaluate("box => { box.scrollTop = 0; }")
    with open(run.log_file, "ab") as file:
        file.write(b"one more\n")
    expect(box).to_contain_text("one more")
    assert box.evaluate("box => box.scrollTop") == 0


def test_the_list_finds_runs_by_name_and_is_walked_with_the_keys(idle: Server, home: Home, open_page: OpenPage) -> None:
    run = made(home, config("zebra stripes"), [Stopped(step=9)], steps=9)
    page = look_at(idle, open_page, made(home, config("another")))
    page.locator("#runs .find").focus()
    expect(page.locator("#runs .find")).not_to_be_focused()  # folded away
    page.locator(".sidebar .toggle-button").click()
    find = page.get_by_role("searchbox", name="Search runs")
    expect(find).to_be_enabled()
    find.fill("zebra")
    rows = page.locator("#runs li")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("zebra stripes")
    find.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**run={run.id}*")
    expect(page.locator("#run-card h2").first).to_have_text("zebra stripes")


def test_a_long_run_that_grows_blocks_the_page_for_no_fifth_of_a_second(
    idle: Server, home: Home, open_page: OpenPage, held: Callable[[RunDir], RunDir]
) -> None:
    run = held(made(home, config(steps=20_000), [Phase(name="training")], steps=10_000))
    page = look_at(idle, open_page, run)
    expect(page.locator("#loss-chart #loss-summary")).to_contain_text("10000 steps")
    page.evaluate(LONG_TASKS)
    for step in range(10_001, 10_011):
        append_step(run, step)
        expect(page.locator("#run-card dd").first).to_have_text(f"{step:,} / 20,000")
    assert max(page.evaluate("longTasks"), default=0) < 200


def test_a_phone_shows_all_of_it_within_its_width(idle: Server, home: Home, open_page: OpenPage) -> None:
    run = made(home, events=[Stopped(step=150)], steps=150)
    sample(run, 0)
    page = look_at(idle, open_page, run, width=390)
    expect(page.locator("#sample-matrix .cell").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_list_reads_a_run_again_only_when_it_changed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    quiet, busy = made(home, events=[Stopped(step=3)], steps=3), made(home, events=[Stopped(step=3)], steps=3)
    known = KnownRuns(home)
    before = {one.run.id: one for one in known.all()}
    time.sleep(0.02)  # the clock of a file system is coarse
    say(busy, Failed(sentence="no"))
    known.look_again()
    after = {one.run.id: one for one in known.all()}
    assert after[quiet.id] is before[quiet.id]
    assert after[busy.id].status.state == "failed"
