"""The first place in a real browser: sets, pictures, captions."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from app.image_sets import ImageSets, StoredSet
from tests.app import pictures
from tests.app.conftest import OpenPage, Server, Watch

pytestmark = pytest.mark.browser
REFUSED = "Failed to load resource"  # what Chromium writes of an answer with a status of 400 and above
MARKS = ("<img src=x onerror=alert(1)>", "${alert(1)}", "{{x}}", "</textarea><script>alert(1)</script>")


@pytest.fixture
def made(server: Server) -> Generator[StoredSet, None, None]:
    """An empty set of its own, chosen; gone afterwards."""
    name = httpx.post(f"{server.url}/sets", json={"name": "Cats"}).json()["id"]
    yield ImageSets(server.home / "sets").find(name)
    httpx.post(f"{server.url}/sets/{name}/delete")


@pytest.fixture
def three(server: Server, made: StoredSet) -> StoredSet:
    """The set with three pictures, the first with a caption."""
    for seed, name in enumerate(("one", "two", "three")):
        give(server, made, f"{name}.png", pictures.picture(200, 160, seed=seed))
    give(server, made, "one.txt", b"the first")
    return made


def give(server: Server, made: StoredSet, name: str, data: bytes) -> None:
    httpx.post(f"{server.url}/sets/{made.id}/files", params={"name": name}, content=data).raise_for_status()


def payload(name: str, data: bytes, kind: str = "application/octet-stream") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def images(page: Page) -> Page:
    page.get_by_role("tab", name="1 Images").click()
    page.wait_for_selector("#captions [data-rev]")
    return page


def cards(page: Page) -> Locator:
    return page.locator("#captions .card")


def caption(page: Page, name: str) -> Locator:
    return page.get_by_label(f"Caption of {name}")


def captions_on_disk(made: StoredSet) -> list[str]:
    return [made.own_caption(path.name) for path in made.pictures()]


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


def test_what_the_model_will_see_is_cut_and_named(server: Server, made: StoredSet, open_page: OpenPage) -> None:
    give(server, made, "wide.png", pictures.picture(600, 220))
    httpx.post(f"{server.url}/sets/{made.id}/prompt", json={"prompt": "ohwx cat"})
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


def test_odd_files_are_told_one_by_one_and_the_rest_is_kept(
    server: Server, made: StoredSet, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    page = images(open_page(server.url))
    wrong = {
        "empty.jpg": (b"", "empty file."),
        "text.png": (b"text", "not a picture, whatever its name says."),
        "half.jpg": (pictures.picture(kind="JPEG")[:700], "damaged"),
        "huge.png": (pictures.claims(20_000), "more than 64 megapixels: scale it down."),
        "large.png": (pictures.claims(10_000), "more than 64 megapixels: scale it down."),
        "phone.heic": (b"ftypheic", "HEIC cannot be read: save it as JPEG or PNG."),
        "drawing.svg": (b"<svg onload='alert(1)'/>", "drawings and documents are not read"),
        "film.mp4": (b"film", "not a picture. Pictures are PNG"),
        "nobody.txt": (b"a caption", "a caption of no picture in this set: not used"),
        "bomb.zip": (pictures.zipped({"a.png": b"\0" * 3_000_000}), "it would unpack to 3 MB"),
        "locked.zip": (pictures.locked(pictures.zipped({"a.png": pictures.picture()})), "locked with a password"),
    }
    right = {
        "same.png": pictures.picture(),
        "turned.jpg": pictures.turned(),
        "moving.gif": pictures.animation(),
        "cmyk.jpg": pictures.picture(kind="JPEG", mode="CMYK", seed=2),
        "clear.png": pictures.hidden_colours(),
        "<img src=x onerror=alert(1)>.png": pictures.picture(1, 1),
        "CON.png": pictures.picture(600, 70, seed=4),
    }
    files = [payload(name, data) for name, (data, _) in wrong.items()]
    files += [payload(name, data) for name, data in right.items()] + [payload("again.png", pictures.picture())]
    page.locator("#upload .files").set_input_files(files)
    expect(page.locator("#upload .sum")).to_have_text(f"{len(right)} pictures added.")
    log = page.locator("#upload .log li")
    for name, (_, told) in wrong.items():
        expect(log.filter(has=page.get_by_text(name, exact=True))).to_contain_text(told)
    expect(log.filter(has_text="again.png")).to_contain_text("the same picture as same.png: left out")
    expect(cards(page)).to_have_count(len(right))
    for name, told in {
        "turned.jpg": "was stored turned: put upright",
        "moving.gif": "animated: the first frame was taken",
        "cmyk.jpg": "converted from CMYK to RGB",
        "clear.png": "was transparent: laid on white",
        "<img src=x onerror=alert(1)>.png": "too small (1x1): left out of training",
        "CON.png": "extreme shape (600x70): left out of training",
    }.items():
        expect(cards(page).filter(has=page.get_by_text(name, exact=True))).to_contain_text(told)
    expect(page.locator("#captions h3")).to_contain_text(f"{len(right)} pictures, {len(right)} without a caption")


def test_a_file_of_51_mb_is_told_and_changes_nothing(
    server: Server, three: StoredSet, open_page: OpenPage, tmp_path: Path
) -> None:
    page = images(open_page(server.url))
    large = tmp_path / "film.png"
    large.write_bytes(bytes(51 * 2**20))
    page.locator("#upload .files").set_input_files(large)
    expect(page.locator("#upload .log li")).to_contain_text("larger than 50 MB.")
    expect(cards(page)).to_have_count(3)


def test_a_photo_is_made_smaller_before_it_is_sent(server: Server, made: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    photo = pictures.turned(3000, 2000, place="x" * 60_000) + bytes(300_000)
    with page.expect_request(lambda request: "/files?" in request.url) as sent:
        page.locator("#upload .files").set_input_files(payload("photo.jpg", photo, "image/jpeg"))
    expect(cards(page).locator(".size")).to_have_text("1365x2048")  # upright, as its EXIF says
    assert len(sent.value.post_data_buffer or b"") < 200_000
    assert "scaled down" not in (cards(page).text_content() or "")


def test_a_folder_and_a_zip_bring_their_captions(
    server: Server, made: StoredSet, open_page: OpenPage, tmp_path: Path
) -> None:
    page = images(open_page(server.url))
    folder = tmp_path / "cats"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "more/b.png")):
        (folder / name).write_bytes(pictures.picture(seed=seed))
        (folder / name).with_suffix(".txt").write_text(f"picture {seed}", encoding="utf-16")
    (folder / ".DS_Store").write_bytes(b"junk")
    page.locator("#upload .folder").set_input_files(folder)
    expect(page.locator("#upload .sum")).to_have_text("2 pictures added.")
    expect(caption(page, "b.png")).to_have_value("picture 1")
    data = pictures.zipped({"in/c.png": pictures.picture(seed=3), "in/c.txt": b"picture 2", "in/d.bin": b""})
    page.locator("#upload .files").set_input_files(payload("cats.zip", data, "application/zip"))
    expect(caption(page, "c.png")).to_have_value("picture 2")
    expect(page.locator("#upload .log li")).to_have_text("d.bin neither a picture nor a caption")
    expect(page.locator("#captions h3")).to_have_text(re.compile("^3 pictures"))


def test_pictures_are_dropped_and_pasted(server: Server, made: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    for event, target in (("drop", "#captions"), ("paste", "body")):
        page.evaluate(
            """([event, target, seed]) => new Promise((done) => {
                const canvas = document.createElement('canvas');
                canvas.width = canvas.height = 90 + seed;
                canvas.toBlob((blob) => {
                    const data = new DataTransfer();
                    data.items.add(new File([blob], 'image.png', { type: 'image/png' }));
                    const made = event === 'drop'
                        ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
                        : new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
                    document.querySelector(target).dispatchEvent(made);
                    done();
                });
            })""",
            [event, target, len(event)],
        )
        expect(page.locator("#upload .sum")).to_have_text("1 picture added.")
    expect(cards(page)).to_have_count(2)
    expect(cards(page).nth(1).locator(".name")).to_have_text(re.compile(r"pasted .*\.png"))


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
    give(server, three, "four.png", pictures.picture(seed=9))
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
    give(server, three, "two.txt", b"the second")
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


def test_200_cards_are_changed_in_place(server: Server, made: StoredSet, open_page: OpenPage) -> None:
    for number in range(200):
        (made.folder / f"{number:03d}.png").write_bytes(pictures.picture(8, 8, seed=number))
    page = images(open_page(server.url))
    expect(cards(page)).to_have_count(200)
    page.evaluate("window.nodes = new Set(document.querySelectorAll('#captions .card'))")
    rev = int(page.locator("#captions [data-rev]").get_attribute("data-rev") or 0)
    for number in range(3):
        caption(page, f"{number:03d}.png").fill("a caption")
        expect(cards(page).nth(number).locator(".state")).to_have_text("saved")
    page.wait_for_function("rev => +document.querySelector('#captions [data-rev]').dataset.rev >= rev + 3", arg=rev)
    assert page.evaluate("[...document.querySelectorAll('#captions .card')].every((card) => window.nodes.has(card))")
