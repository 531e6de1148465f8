"""Pictures come into a set: from files, a folder, a zip, the clipboard; what is wrong with one is said by its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.image_sets import StoredSet
from tests.app import pictures
from tests.app.conftest import OpenPage, Server, Watch
from tests.app.images_place import REFUSED, caption, cards, images, payload, send

pytestmark = pytest.mark.browser


def test_odd_files_are_told_one_by_one_and_the_rest_is_kept(
    server: Server, cats: StoredSet, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    page = images(open_page(server.url))
    wrong = {
        "empty.jpg": (b"", "empty file."),
        "text.png": (b"text", "not a picture, whatever its name says."),
        "half.jpg": (pictures.picture(kind="JPEG")[:700], "damaged"),
        "huge.png": (pictures.claims(20_000), "more than 64 megapixels: scale it down."),
        "large.png": (pictures.claims(10_000), "more than 64 megapixels: scale it down."),
        "phone.heic": (b"\0\0\0\x18ftypheic", "not a picture, whatever its name says."),
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
        "photo.heic": pictures.OF_A_PHONE.read_bytes(),
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
    server: Server, cats: StoredSet, open_page: OpenPage, tmp_path: Path
) -> None:
    send(server, cats, "small.png", pictures.picture())
    page = images(open_page(server.url))
    large = tmp_path / "film.png"
    large.write_bytes(bytes(51 * 2**20))
    page.locator("#upload .files").set_input_files(large)
    expect(page.locator("#upload .log li")).to_contain_text("larger than 50 MB.")
    expect(cards(page)).to_have_count(1)


def test_a_photo_is_made_smaller_before_it_is_sent(server: Server, cats: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    photo = pictures.turned(3000, 2000, place="x" * 60_000) + bytes(300_000)
    with page.expect_request(lambda request: "/files?" in request.url) as sent:
        page.locator("#upload .files").set_input_files(payload("photo.jpg", photo, "image/jpeg"))
    expect(cards(page).locator(".size")).to_have_text("1365x2048")  # upright, as its EXIF says
    assert len(sent.value.post_data_buffer or b"") < 200_000
    assert "scaled down" not in (cards(page).text_content() or "")


def test_a_folder_and_a_zip_bring_their_captions(
    server: Server, cats: StoredSet, open_page: OpenPage, tmp_path: Path
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


def test_pictures_are_dropped_and_pasted(server: Server, cats: StoredSet, open_page: OpenPage) -> None:
    page = images(open_page(server.url))
    for event, target in (("drop", "#captions"), ("paste", "body")):
        page.evaluate(
            """([event, target, seed]) => new Promise((done) => {
                const canvas = document.createElement('canvas');
                canvas.width = canvas.height = 90 + seed;
                canvas.toBlob((blob) => {
                    const data = new DataTransfer();
                    data.items.add(new File([blob], 'image.png', { type: 'image/png' }));
                    const cats = event === 'drop'
                        ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
                        : new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
                    document.querySelector(target).dispatchEvent(cats);
                    done();
                });
            })""",
            [event, target, len(event)],
        )
        expect(page.locator("#upload .sum")).to_have_text("1 picture added.")
    expect(cards(page)).to_have_count(2)
    expect(cards(page).nth(1).locator(".name")).to_have_text(re.compile(r"pasted .*\.png"))
