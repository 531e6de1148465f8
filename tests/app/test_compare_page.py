"""The place Compare in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.app.conftest import OpenPage, Server, Watch
from tests.app.made_runs import config, made_twins, say
from tests.app.twin_home import EVIL, TwinHome
from trainer.compare.manifest import read_manifest
from trainer.events import Exported, Finished, Phase
from trainer.home import Home
from trainer.queue import Outcome, Queue
from trainer.run_dir import RunDir

pytestmark = pytest.mark.browser
REFUSED = "Failed to load resource"  # what Chromium writes of an answer with a status of 400 and above
DRAWING_MS = 150_000  # a process that loads torch and the starter, on a loaded machine


def compare(page: Page) -> Page:
    page.wait_for_selector("#compare [data-rev]", state="attached")
    return page


def shown(page: Page, twins: TwinHome) -> Locator:
    """The comparison of the two, chosen from the list: another test may have drawn a newer one."""
    key = twins.folder.relative_to(twins.path).as_posix()
    page.locator(f'#compare .made [data-key="{key}"] button').click()
    page.wait_for_selector(f'#comparison [data-key="{key}"]')
    return page.locator("#comparison")


def test_without_runs_it_leads_to_setup(idle: Server, home: Home, open_page: OpenPage) -> None:
    page = compare(open_page(f"{idle.url}?place=compare"))
    expect(page.get_by_text("Nothing to compare yet: train a twin run.")).to_be_visible()
    expect(page.get_by_role("button", name="Draw")).to_be_disabled()
    page.get_by_role("button", name="Go to Setup").click()
    expect(page.get_by_role("tab", name="2 Setup")).to_have_attribute("aria-selected", "true")


def test_the_queue_is_told_and_a_failure_in_words(idle: Server, home: Home, open_page: OpenPage) -> None:
    queue = Queue(home)
    run = RunDir.create(home.runs, config("Cat <i>lora</i>"))
    page = compare(open_page(f"{idle.url}?place=compare"))
    expect(page.get_by_role("checkbox", name="Cat <i>lora</i>")).to_be_disabled()
    about = page.locator(f'#compare [data-key="{run.id}"] .about')
    expect(about).to_have_text("new: it has a file to compare once it has finished")
    job = queue.submit("compare", [run.path], {"sources": [run.id]})
    line = page.locator("#compare .job")
    expect(line).to_contain_text("Waiting for its turn")
    expect(line).to_contain_text("Cat <i>lora</i>")
    assert queue.claim("cpu") is not None
    expect(line).to_contain_text("Drawing loading the model")
    queue.log_file(job).parent.mkdir(exist_ok=True)
    queue.log_file(job).write_text("picture 1 of 6\npicture 2 of 6\n")
    expect(line).to_contain_text("picture 2 of 6")
    assert line.locator("progress").evaluate("bar => bar.value") == pytest.approx(2 / 6)
    claimed = queue.list_jobs(["claimed"])[0].job
    queue.finish(claimed, Outcome(at=claimed.submitted_at, code=1, sentence="It <b>broke</b>.", fix="Mend it."))
    expect(line).to_have_attribute("data-state", "failed")
    expect(line).to_contain_text("It <b>broke</b>. Mend it.")


def test_a_job_that_waits_is_taken_off_the_queue(idle: Server, home: Home, open_page: OpenPage) -> None:
    queue = Queue(home)
    queue.submit("compare", [], {"sources": ["/a/b.safetensors"]})
    page = compare(open_page(f"{idle.url}?place=compare"))
    line = page.locator("#compare .job", has_text="b.safetensors")
    line.get_by_role("button", name="Stop").click()
    expect(line).to_have_count(0)
    assert queue.list_jobs(["waiting"]) == []


def test_the_twins_are_chosen_and_their_comparison_is_shown(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = compare(open_page(f"{host.url}?place=compare"))
    for run in ("Icons <b>3D</b> lora", "Icons <b>3D</b> dora"):
        expect(page.get_by_role("checkbox", name=run)).to_be_checked()
    expect(page.locator("#compare .told")).to_have_text("6 pictures: 2 rows by 3 columns.")
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    comparison, manifest = shown(page, twins), read_manifest(twins.folder)
    expect(comparison.locator("h2")).to_have_text("base | Icons <b>3D</b> LoRA | Icons <b>3D</b> DoRA")
    expect(comparison.locator(".cell")).to_have_count(6)
    expect(comparison.locator(".grid th .label")).to_have_text(["a worm, 3d style", EVIL])
    for image in comparison.locator(".grid img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    figures = comparison.locator(".figures tr", has_text="validation loss").locator("td")
    losses = [f"{column.validation_loss:.4f}" for column in manifest.columns[1:]]
    expect(figures).to_have_text(["\u2013", *losses])
    expect(comparison.locator(".whys")).to_contain_text("peak memory: nothing measures it on a processor")
    layers = [layer for entry in manifest.analysis for layer in entry.layers]
    marks = sum(layer.magnitude_change > 0 for layer in layers) + sum(layer.direction_change > 0 for layer in layers)
    expect(comparison.locator(".plots rect, .plots circle")).to_have_count(marks)
    comparison.get_by_text("The command that draws it again").click()
    expect(comparison.locator(".again pre")).to_have_text(manifest.command)


def test_a_twin_that_finishes_later_is_chosen_too_unless_somebody_chose(
    idle: Server, home: Home, open_page: OpenPage, pair: list[RunDir]
) -> None:
    lora, dora = pair
    finishes(lora)
    page, other = (compare(open_page(f"{idle.url}?place=compare")) for _ in range(2))
    for each in (page, other):
        expect(each.get_by_role("checkbox", name="pears lora")).to_be_checked()
        expect(each.locator("#compare .told")).to_have_text("6 pictures: 3 rows by 2 columns.")
    other.get_by_label("Strengths").fill("1")
    finishes(dora)
    for each in (page, other):
        expect(each.get_by_role("checkbox", name="pears dora")).to_be_enabled()
    expect(page.get_by_role("checkbox", name="pears dora")).to_be_checked()
    expect(page.locator("#compare .told")).to_have_text("9 pictures: 3 rows by 3 columns.")
    expect(other.get_by_role("checkbox", name="pears dora")).not_to_be_checked()
    expect(other.locator("#compare .told")).to_have_text("6 pictures: 3 rows by 2 columns.")


@pytest.fixture
def pair(home: Home) -> Generator[list[RunDir], None, None]:
    """Twins without a step. Gone afterwards."""
    twins = made_twins(home, "pears")
    yield twins
    for run in twins:
        shutil.rmtree(run.path)


def finishes(run: RunDir) -> None:
    file = run.exports_dir / "pears.safetensors"
    file.write_bytes(b"")  # what is in it is nobody's business before it is drawn
    say(run, Phase(name="exporting"), Exported(file=f"exports/{file.name}", headline="as trained"), Finished(step=1500))


def test_any_two_pictures_are_compared_by_mouse_and_keyboard(
    host: Server, twins: TwinHome, open_page: OpenPage
) -> None:
    page = compare(open_page(f"{host.url}?place=compare"))
    comparison, manifest = shown(page, twins), read_manifest(twins.folder)
    names = comparison.locator(".names")
    expect(names).to_have_text("A: Icons <b>3D</b> LoRA. B: Icons <b>3D</b> DoRA.")
    comparison.get_by_role("button", name="base: a worm").click()
    expect(names).to_have_text("A: Icons <b>3D</b> DoRA. B: base.")
    comparison.get_by_role("button", name=f"Icons <b>3D</b> LoRA: {EVIL}").press("Enter")
    expect(names).to_have_text("A: base. B: Icons <b>3D</b> LoRA.")
    below = comparison.locator(".frame .below")
    below.evaluate("image => image.decode()")
    assert Path(manifest.cell(1, 1).picture).name in (below.get_attribute("src") or "")
    expect(comparison.locator(".cell[aria-pressed=true]")).to_have_count(2)
    slider = comparison.get_by_role("slider", name="Between the two pictures")
    slider.press("ArrowRight")
    expect(comparison.locator(".frame")).to_have_attribute("style", "--at: 51%;")
    slider.press("Home")
    expect(comparison.locator(".frame")).to_have_attribute("style", "--at: 0%;")


def test_what_is_downloaded_is_what_lies_on_the_disk(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = compare(open_page(f"{host.url}?place=compare"))
    comparison = shown(page, twins)
    files = {
        "Grid (PNG)": "grid.png",
        "Plot (PNG)": "layers.png",
        "Page (HTML)": "index.html",
        "Figures (JSON)": "manifest.json",
    }
    for title, name in files.items():
        with page.expect_download() as saved:
            comparison.get_by_role("link", name=title).click()
        assert saved.value.suggested_filename == name
        assert saved.value.path().read_bytes() == (twins.folder / name).read_bytes()


def test_what_cannot_be_drawn_is_told_where_it_is_typed_and_outlives_a_refresh(
    host: Server, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    page = compare(open_page(f"{host.url}?place=compare"))
    told, draw = page.locator("#compare .told"), page.get_by_role("button", name="Draw")
    page.get_by_label("Seeds").fill(", ".join(map(str, range(70))))
    expect(told).to_have_text(re.compile("That would be 420 pictures, 140 rows by 3 columns; the limit is 400."))
    expect(draw).to_be_disabled()
    page.get_by_label("Seeds").fill("one")
    expect(told).to_contain_text("seeds.0 is 'one'")
    page.get_by_label("Seeds").fill("")
    page.get_by_label("Adapter files").fill("/nowhere/<b>.safetensors")
    expect(told).to_have_text("There is no file /nowhere/<b>.safetensors. Give the whole path of a .safetensors file.")
    page.get_by_label("Adapter files").fill("")
    page.get_by_role("checkbox", name="Icons <b>3D</b> lora").uncheck()
    page.get_by_label("Strengths").fill("0.5, 1")
    expect(told).to_have_text("6 pictures: 2 rows by 3 columns.")
    page.reload()
    expect(page.get_by_label("Strengths")).to_have_value("0.5, 1")
    expect(page.get_by_role("checkbox", name="Icons <b>3D</b> lora")).not_to_be_checked()
    expect(page.get_by_role("checkbox", name="Icons <b>3D</b> dora")).to_be_checked()


def test_a_comparison_is_drawn_once_and_then_shown(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = compare(open_page(f"{host.url}?place=compare"))
    for kind in ("lora", "dora"):
        page.get_by_role("checkbox", name=f"Icons <b>3D</b> {kind}").uncheck()
    page.get_by_role("group", name="Checkpoints of Icons <b>3D</b> dora").get_by_label("step 2").check()
    page.get_by_label("Prompts").fill("a <b>crab</b>")
    page.get_by_label("Sampler steps").fill("1")
    expect(page.locator("#compare .told")).to_have_text("2 pictures: 1 row by 2 columns.")
    page.get_by_role("button", name="Draw").dblclick()
    expect(page.locator("#compare .job")).to_have_count(1)
    expect(page.locator("#compare .made li")).to_have_count(2, timeout=DRAWING_MS)
    expect(page.locator("#comparison h2")).to_have_text("base | Icons <b>3D</b> DoRA, step 2")
    expect(page.locator("#comparison .grid th .label")).to_have_text(["a <b>crab</b>"])
    jobs = [entry.job for entry in Queue(Home(twins.path)).list_jobs() if entry.job.kind == "compare"]
    assert [job.parameters for job in jobs] == [
        {"sources": [f"{twins.dora.id}@2"], "prompts": ["a <b>crab</b>"], "steps": [1]}
    ]
    page.locator("#compare .made li").nth(1).get_by_role("button").click()
    shown(page, twins)


def test_on_a_phone_the_grid_scrolls_and_the_page_does_not(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = compare(open_page(f"{host.url}?place=compare", width=390))
    comparison = page.locator("#comparison")
    expect(comparison.locator("h2")).not_to_be_empty()
    frame = comparison.locator(".frame").bounding_box()
    assert frame is not None
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= 390
    for region in ("Grid of pictures", "Figures", "Change of magnitude by layer", "Change of direction by layer"):
        box = comparison.get_by_role("region", name=region).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") == 390
