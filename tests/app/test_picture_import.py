"""Pictures of every kind, taken into a set: what is refused, what is put right, and what they are called."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from app import picture_import
from app.image_sets import StoredSet
from app.intake import Intake, Taken
from app.picture_import import BadPictureError
from tests.app import pictures
from tests.app.pictures import give, names


def only(stored: StoredSet) -> Image.Image:
    [path] = stored.pictures()
    return Image.open(io.BytesIO(path.read_bytes()))


REFUSED = {
    "empty": (b"", "empty.jpg", "empty file"),
    "text": (b"not a picture at all", "text.png", "not a picture, whatever its name says"),
    "half a JPEG": (pictures.picture(kind="JPEG")[:700], "half.jpg", "damaged"),
    "20 000 a side": (pictures.claims(20_000), "huge.png", "more than 64 megapixels"),
    "10 000 a side": (pictures.claims(10_000), "large.png", "more than 64 megapixels"),
    "half a HEIC": (pictures.OF_A_PHONE.read_bytes()[:400], "phone.HEIC", "damaged|not a picture"),
    "SVG": (b"<svg onload='alert(1)'/>", "drawing.svg", "drawings and documents are not read"),
    "SVG under another name": (b"<svg onload='alert(1)'/>", "drawing.png", "not a picture"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "drawing.eps", "drawings and documents are not read"),
    "EPS under another name": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "drawing.jpg", "not a picture"),
    "PDF": (b"%PDF-1.7", "paper.pdf", "drawings and documents are not read"),
    "a text that unpacks": (pictures.text_bomb(), "bomb.png", "damaged"),
    "film": (b"\0\0\0\x18ftypmp42", "film.mp4", "not a picture"),
    "program": (b"MZ", "setup.exe", "not a picture"),
    "no ending": (pictures.picture(), "picture", "not a picture"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_with_the_reason(stored: StoredSet, intake: Intake, kind: str) -> None:
    data, name, reason = REFUSED[kind]
    with pytest.raises(BadPictureError, match=reason):
        give(intake, stored, data, name)
    assert names(stored) == []
    assert list(intake.folder.iterdir()) == []


TAKEN = {
    "CMYK": (pictures.picture(kind="JPEG", mode="CMYK"), "a.jpg", "converted from CMYK to RGB"),
    "turned": (pictures.turned(), "a.jpg", "was stored turned: put upright"),
    "animated": (pictures.animation(), "a.gif", "animated: the first frame was taken"),
    "transparent": (pictures.hidden_colours(), "a.png", "was transparent: laid on white"),
    "palette": (pictures.picture(mode="P"), "a.png", ""),
    "1-bit": (pictures.picture(mode="1"), "a.png", ""),
    "grey": (pictures.picture(mode="L"), "a.png", ""),
    "JPEG named .png": (pictures.picture(kind="JPEG"), "a.png", ""),
    "HEIC": (pictures.OF_A_PHONE.read_bytes(), "phone.HEIC", ""),
    "1x1": (pictures.picture(1, 1), "a.png", ""),
    "5000x8": (pictures.picture(5000, 8), "a.png", "scaled down from 5000x8"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_odd_pictures_become_plain_ones(stored: StoredSet, intake: Intake, kind: str) -> None:
    data, name, told = TAKEN[kind]
    assert give(intake, stored, data, name) == Taken(told, is_new=True)
    assert only(stored).mode == "RGB"


def test_a_turned_picture_is_upright_and_says_nothing_of_where_it_was_taken(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.turned(96, 64, place="48.8584 N 2.2945 E"), "a.jpg")
    image = only(stored)
    assert image.size == (64, 96)
    assert image.getpixel((32, 10))[0] > 200  # type: ignore[index] - the red half is on top
    assert not image.getexif()
    assert b"48.8584" not in stored.pictures()[0].read_bytes()


def test_sixteen_bit_grey_is_scaled_and_hidden_colours_stay_hidden(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.encoded(Image.new("I;16", (80, 70), 128 * 257)), "deep.png")
    assert only(stored).getpixel((3, 3)) == (128, 128, 128)
    stored.remove(stored.pictures()[0].name)
    give(intake, stored, pictures.hidden_colours(), "hidden.png")
    assert only(stored).getpixel((3, 3)) == (255, 255, 255)


def test_large_pictures_are_scaled_to_what_training_can_use(stored: StoredSet, intake: Intake) -> None:
    taken = give(intake, stored, pictures.encoded(Image.new("RGB", (3000, 1500), "teal"), "JPEG"), "photo.jpg")
    assert taken.text == "scaled down from 3000x1500"
    assert only(stored).size == (2048, 1024)


def test_photos_stay_jpeg_and_drawings_are_kept_to_the_pixel(
    stored: StoredSet, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = pictures.picture()
    give(intake, stored, drawing, "drawing.png")
    assert only(stored).tobytes() == Image.open(io.BytesIO(drawing)).tobytes()
    give(intake, stored, pictures.picture(kind="JPEG", seed=2), "photo.jpeg")
    monkeypatch.setattr(picture_import, "LARGEST_PNG", 1000)
    give(intake, stored, pictures.picture(seed=3), "large.png")
    assert [path.suffix for path in stored.pictures()] == [".png", ".jpg", ".jpg"]


def test_the_same_picture_is_taken_once_whatever_it_is_called(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    lossless = pictures.encoded(Image.open(io.BytesIO(pictures.picture())), "BMP")
    assert give(intake, stored, lossless, "b.bmp") == Taken("the same picture as a.png: left out")
    stored.remove(stored.pictures()[0].name)
    assert give(intake, stored, lossless, "b.bmp").is_new


ODD_NAMES = ("../../x.png", "CON.png", "n" * 300 + ".png", "\N{CAT FACE} \u202egnp.png", "a.png", "A.PNG", "..png",
             "C:\\Windows\\x.png", "<img src=x onerror=alert(1)>.png", "${alert(1)}{{x}}.png", "-rf.png")  # fmt: skip


def test_names_are_for_showing_only(stored: StoredSet, intake: Intake) -> None:
    before = {path.name for path in stored.folder.parent.iterdir()}
    for seed, name in enumerate(ODD_NAMES):
        give(intake, stored, pictures.picture(seed=seed), name)
    assert all(path.name[:5] == f"{number:04d}-" for number, path in enumerate(stored.pictures(), 1))
    assert {path.name for path in stored.folder.parent.iterdir()} == before | {".locks"}
    assert names(stored)[4:6] == ["a.png", "A.PNG"]
    assert names(stored)[0] == names(stored)[7] == "x.png"
    assert max(map(len, names(stored))) == 200
