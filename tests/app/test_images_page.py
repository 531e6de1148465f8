"""The first place in a real browser: sets, captions, what the model will see."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import expect

from app.image_sets import StoredSet
from tests.app import pictures
from tests.app.conftest import OpenPage, Server, Watch
from tests.app.images_place import REFUSED, caption, captions_on_disk, cards, images, send

pytestmark = pytest.mark.browser
MARKS = ("<img src=x onerror=alert(1)>", "${alert(1)}", "{{x}}", "</textarea><script>alert(1)</script>")


@pytest.fixture
def three(server: Server, cats: StoredSet) -> StoredSet:
    """The set with three pictures, the first with a caption."""
    for seed, name in enumerate(("one", "two", "three")):
        send(server, cats, f"{name}.png", pictures.picture(200, 160, seed=seed))
    send(server, cats, "one.txt", b"the first")
    return cats


def test_the_first_visit_shows_the_sample_sets(server: Server, open_page: OpenPage) -> None:
    httpx.post(f"{server.url}/sets/icons3d/choose")
    page = images(open_page(server.url))
    expect(page.get_by_label("Image set").locator("option:checked")).to_have_text("3D icons (sample) · 16 pictures")
    expect(cards(page)).to_have_count(16)
    expect(caption(page, "02-worm.jpg")).to_have_value("a worm on a green background, 3d style")
    assert page.locator("#captions img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.get_by_label("Image set").select_option(label="Penguin (sample) · 6 pictures")
    expect(cards(page)).to_have_count(6)
    expect(page.get_by_label("Prompt of the set")).to_have_value("a sks penguin")
    page.reload()
    expect(cards(page)).to_have_count(6)


def test_what_the_model_will_see_is_cut_and_named(server: Server, cats: StoredSet, open_page: OpenPage) -> None:
    send(server, cats, "wide.png", pictures.picture(600, 220))
    httpx.post(f"{server.url}/sets/{cats.id}/prompt", json={"prompt": "ohwx cat"})
    page = images(open_page(server.url))
    page.get_by_role("button", name="Show what the model will see of wide.png").click()
    seen = page.locator("#seen")
    expect(seen.locator(".bucket")).to_have_text("80x48 px")
    expect(seen.locator(".cut")).to_have_text("39% is cut off")
    expect(seen.locator(".caption")).to_have_text("ohwx cat")
    expect(seen.locator(".tokens")).to_have_text(re.compile(r"the prompt of the set, \d+ of 32 tokens"))
    assert seen.locator("canvas").evaluate("canvas => [canvas.width, canvas.height]") == [80, 48]
    caption(page, "wide.png").fill("a cat on a sofa")
    expect(seen.locator(".caption")).to_have_text("a cat on a sofa")
    expect(seen.locator(".tokens")).to_contain_text("its own caption")


def test_captions_are_shown_as_they_were_typed(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    typed = " ".join(MARKS)
    caption(page, "two.png").fill(typed)
    expect(cards(page).nth(1).locator(".state")).to_have_text("saved")
    page.get_by_label("Prompt of the set").fill(typed)
    expect(page.locator("#wording .state")).to_contain_text("saved")
    page.reload()
    expect(caption(page, "two.png")).to_have_value(typed)
    expect(caption(page, "three.png")).to_have_attribute("placeholder", typed)
    page.get_by_role("button", name="Show what the model will see of two.png").click()
    expect(page.locator("#seen .caption")).to_have_text(typed)
    assert captions_on_disk(three) == ["the first", typed, ""]


def test_two_tabs_do_not_undo_each_other(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    first, second = images(open_page(server.url)), images(open_page(server.url))
    caption(first, "one.png").fill("by the first tab")
    caption(second, "two.png").fill("by the second tab")
    expect(caption(second, "one.png")).to_have_value("by the first tab")
    expect(caption(first, "two.png")).to_have_value("by the second tab")
    assert captions_on_disk(three) == ["by the first tab", "by the second tab", ""]


def test_typing_goes_on_while_pictures_come_and_go(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    box = caption(page, "two.png")
    box.click()
    page.keyboard.type("half a ")
    send(server, three, "four.png", pictures.picture(seed=9))
    three.remove(three.pictures()[0].name)
    expect(caption(page, "four.png")).to_be_visible()
    expect(caption(page, "one.png")).to_have_count(0)
    page.keyboard.type("caption")
    expect(box).to_be_focused()
    expect(box).to_have_value("half a caption")


def test_what_is_typed_is_saved_as_the_page_goes(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    caption(page, "three.png").fill("just before the refresh")
    page.reload()
    expect(caption(page, "three.png")).to_have_value("just before the refresh")


def test_what_could_not_be_saved_stays_typed_and_is_saved_later(
    server: Server, three: StoredSet, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    page = images(open_page(server.url))
    state = cards(page).nth(1).locator(".state")
    page.route("**/captions", lambda route: route.abort())
    caption(page, "two.png").fill("typed while nobody listens")
    caption(page, "three.png").focus()
    expect(state).to_have_text("not saved: The server cannot be reached. Is it still running?")
    page.unroute("**/captions")
    expect(caption(page, "two.png")).to_have_value("typed while nobody listens")
    caption(page, "two.png").focus()
    caption(page, "three.png").focus()
    expect(state).to_have_text("saved")
    assert captions_on_disk(three)[1] == "typed while nobody listens"


def test_removing_is_undone(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    page.get_by_role("button", name="Remove one.png").click()
    expect(cards(page)).to_have_count(2)
    expect(page.locator("#captions .line")).to_contain_text("Removed one.png.")
    page.locator("#captions").get_by_role("button", name="Undo").click()
    expect(cards(page)).to_have_count(3)
    expect(cards(page).first.locator(".name")).to_have_text("one.png")
    expect(caption(page, "one.png")).to_have_value("the first")


def test_many_captions_are_changed_after_a_look_and_changed_back(
    server: Server, three: StoredSet, open_page: OpenPage
) -> None:
    send(server, three, "two.txt", b"the second")
    page = images(open_page(server.url))
    page.get_by_text("Change all captions").click()
    page.get_by_label("Find").fill("the")
    page.get_by_label("Replace with").fill("a")
    page.get_by_label("Put before").fill("ohwx,")
    preview = page.locator("#wording .preview")
    expect(preview).to_have_text('2 of 2 captions. The first: "the first" becomes "ohwx, a first".')
    assert captions_on_disk(three) == ["the first", "the second", ""]
    page.get_by_role("button", name="Change captions").click()
    expect(caption(page, "two.png")).to_have_value("ohwx, a second")
    page.locator("#wording").get_by_role("button", name="Undo").click()
    expect(caption(page, "two.png")).to_have_value("the second")
    assert captions_on_disk(three) == ["the first", "the second", ""]


def test_sets_are_made_renamed_deleted_and_brought_back(
    server: Server, three: StoredSet, open_page: OpenPage, watch: Watch
) -> None:
    page = images(open_page(server.url))
    bar = page.locator("#sets")
    chosen = bar.locator("option:checked")
    bar.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill(MARKS[0])
    page.keyboard.press("Enter")
    expect(chosen).to_have_text(f"{MARKS[0]} · 3 pictures")
    bar.get_by_role("button", name="Duplicate").click()
    expect(chosen).to_have_text(f"{MARKS[0]} 2 · 3 pictures")
    bar.get_by_role("button", name="Delete").click()
    expect(bar.locator(".ask")).to_contain_text("with its 3 pictures?")
    bar.locator(".ask").get_by_role("button", name="Delete").click()
    expect(chosen).not_to_have_text(f"{MARKS[0]} 2 · 3 pictures")
    bar.get_by_role("button", name="Undo").click()
    expect(chosen).to_have_text(f"{MARKS[0]} 2 · 3 pictures")
    bar.get_by_role("button", name="New set").click()
    page.get_by_label("Name of the new set").fill("Empty")
    page.keyboard.press("Enter")
    expect(chosen).to_have_text("Empty · 0 pictures")
    expect(page.locator("#captions .empty")).to_contain_text("No picture in this set yet")
    with page.expect_file_chooser():
        page.locator("#captions .empty").get_by_role("button", name="Choose pictures").click()


def test_the_keyboard_reaches_everything(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    page.get_by_label("Image set").focus()
    reached: list[str] = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()"))
    for name in ("New set", "Delete", "Continue to Setup", "Caption of one.png", "Remove one.png", "Choose pictures"):
        assert name in reached
    page.get_by_role("button", name="Remove two.png").focus()
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(2)
    expect(page.get_by_role("button", name="Show what the model will see of three.png")).to_be_focused()


def test_setup_is_a_click_away(server: Server, three: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    page.get_by_role("button", name="Continue to Setup").click()
    expect(page.get_by_role("tab", name="2 Setup")).to_have_attribute("aria-selected", "true")
    page.wait_for_url("**place=setup*")


@pytest.mark.parametrize("dark", [True, False])
def test_a_phone_shows_it_all(server: Server, three: StoredSet, open_page: OpenPage, dark: bool) -> None:
    page = images(open_page(server.url, width=390, height=844, dark=dark))
    expect(cards(page)).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [page.locator(each).bounding_box() or {} for each in ("#sets", "#upload", "#captions", "#wording")]
    assert [box["y"] for box in tops] == sorted(box["y"] for box in tops)
    caption(page, "one.png").fill("typed on a phone")
    expect(cards(page).first.locator(".state")).to_have_text("saved")


def test_200_cards_are_changed_in_place(server: Server, cats: StoredSet, open_page: OpenPage) -> None:
    for number in range(200):
        (cats.folder / f"{number:03d}.png").write_bytes(pictures.picture(8, 8, seed=number))
    page = images(open_page(server.url))
    expect(cards(page)).to_have_count(200)
    page.evaluate("window.nodes = new Set(document.querySelectorAll('#captions .card'))")
    rev = int(page.locator("#captions [data-rev]").get_attribute("data-rev") or 0)
    for number in range(3):
        caption(page, f"{number:03d}.png").fill("a caption")
        expect(cards(page).nth(number).locator(".state")).to_have_text("saved")
    page.wait_for_function("rev => +document.querySelector('#captions [data-rev]').dataset.rev >= rev + 3", arg=rev)
    assert page.evaluate("[...document.querySelectorAll('#captions .card')].every((card) => window.nodes.has(card))")
