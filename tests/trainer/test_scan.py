"""Scanning a folder of pictures: what a person may drop in, and what becomes of it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageCms

from trainer.data.scan import DAMAGE, ImageSet, open_upright, picture_files, scan

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(width: int = 96, height: int = 80, colour: tuple[int, int, int] = (30, 90, 200)) -> Image.Image:
    """A picture whose upper left corner is red, so that turning it shows."""
    image = Image.new("RGB", (width, height), colour)
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def reasons(images: ImageSet) -> dict[str, str]:
    return {left.path.name: left.reason for left in images.left_out}


def names(images: ImageSet) -> list[str]:
    return [entry.path.name for entry in images.pictures]


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and brings no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_unreadable_files_are_left_out_by_name_and_the_others_kept(tmp_path: Path) -> None:
    picture().save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture at all")
    picture(300, 200).save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    Image.effect_noise((90, 90), 50).save(tmp_path / "noise.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "noise.png").read_bytes()[:3000])
    images = scan(tmp_path)
    assert names(images) == ["good.png", "noise.png", "whole.jpg"]
    assert reasons(images)["empty.jpg"] == "empty file"
    assert reasons(images)["text.png"].startswith("not a picture")
    assert reasons(images)["half.jpg"].startswith("damaged")
    assert reasons(images)["half.png"].startswith("damaged")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_header_that_claims_too_many_pixels_is_refused_before_any_is_made(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    assert reasons(scan(tmp_path)) == {"bomb.png": "more than 64 megapixels: scale it down"}


def test_a_text_that_unpacks_to_a_hundred_megabytes_is_refused(tmp_path: Path) -> None:
    picture().save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000))
    (tmp_path / "bomb.png").write_bytes(data[:33] + bomb + data[33:])  # after the header: 8 + 25 bytes
    images = scan(tmp_path)
    assert names(images) == ["good.png"]
    assert reasons(images)["bomb.png"].startswith("damaged")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("a.pdf", b"%PDF-1.7\n"),
    ],
)
def test_what_would_need_another_program_is_refused_with_what_to_do(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "save it as" in reasons(scan(tmp_path))[name]
    (tmp_path / name).rename(tmp_path / "a.png")
    assert reasons(scan(tmp_path))["a.png"].startswith("not a picture")


@pytest.mark.parametrize("name", ["phone.heic", "PHONE.HEIF", "phone.jpg"])
def test_a_picture_of_a_phone_is_read_upright_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    """Red left of blue with a white corner at the top, 96 x 64, and an orientation of 6: turned to the right."""
    data = (Path(__file__).parent / "phone.heic").read_bytes()
    (tmp_path / name).write_bytes(data)
    (tmp_path / "half.heic").write_bytes(data[:400])
    images = scan(tmp_path)
    (found,) = images.pictures
    assert (found.width, found.height, found.is_rotated, found.is_animated) == (64, 96, False, False)
    upright = open_upright(found.path)
    corners = [upright.getpixel(place) for place in ((4, 4), (59, 4), (4, 91), (59, 91))]
    for corner, colour in zip(corners, ((200, 30, 30), (240, 240, 240), (30, 30, 200), (30, 30, 200)), strict=True):
        assert isinstance(corner, tuple)
        assert corner == pytest.approx(colour, abs=4)
    assert reasons(images)["half.heic"].startswith(("damaged", "not a picture"))


def test_too_small_and_extreme_pictures_are_left_out_with_the_setting_that_decides(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("RGB", (2500, 80)).save(tmp_path / "line.png")
    picture(64, 70).save(tmp_path / "good.png")
    images = scan(tmp_path, smallest_side_px=64, longest_ratio=4)
    assert names(images) == ["good.png"]
    assert reasons(images) == {
        "dot.png": "too small: 1x1, data.smallest_side_px is 64",
        "line.png": "extreme shape: 2500x80, data.longest_ratio is 4",
    }
    assert names(scan(tmp_path)) == ["dot.png", "good.png", "line.png"]


def test_the_same_bytes_count_once_and_names_that_differ_in_case_both_count(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "copy of a.png").write_bytes((tmp_path / "a.png").read_bytes())
    picture(colour=GREEN).save(tmp_path / "A.PNG")
    images = scan(tmp_path)
    assert names(images) == ["A.PNG", "a.png"]
    assert reasons(images) == {"copy of a.png": "the same picture as a.png"}


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # stored turned to the left: shown turned to the right
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_every_exif_orientation_is_trained_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright, turn = picture(), TURNS[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = upright if turn is None else upright.transpose(turn)
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    (entry,) = scan(tmp_path).pictures
    opened = open_upright(entry.path)
    assert (entry.width, entry.height) == opened.size == (96, 80)
    assert entry.is_rotated == (orientation != 1)
    assert near(opened.getpixel((4, 4)), RED, 40)
    assert not near(opened.getpixel((90, 4)), RED, 40)


def test_sixteen_bit_grey_is_scaled_not_cut_off_at_white(tmp_path: Path) -> None:
    grey = Image.new("I;16", (70, 66), 0x4040)
    grey.paste(0xFFFF, (0, 0, 10, 10))
    grey.save(tmp_path / "grey.png")
    grey.save(tmp_path / "grey.tiff")
    for name in ("grey.png", "grey.tiff"):
        opened = open_upright(tmp_path / name)
        assert opened.getpixel((40, 40)) == (0x40, 0x40, 0x40)
        assert opened.getpixel((2, 2)) == WHITE


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_hidden_colours_below_transparency_do_not_show(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (70, 66), (200, 0, 0, 0))  # red, and fully transparent
    image.paste((0, 0, 0, 255), (0, 0, 10, 10))
    converted = image.convert(mode)
    options: dict[str, Any] = {"transparency": converted.getpixel((40, 40))} if mode == "P" else {}
    converted.save(tmp_path / "a.png", **options)
    (entry,) = scan(tmp_path).pictures
    assert entry.is_transparent
    assert open_upright(entry.path).getpixel((40, 40)) == WHITE
    assert open_upright(entry.path, "#204060").getpixel((40, 40)) == (0x20, 0x40, 0x60)
    assert open_upright(entry.path).getpixel((2, 2)) == (0, 0, 0)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (70, 66), colour) for colour in (RED, GREEN, BLUE)]
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    (entry,) = scan(tmp_path).pictures
    assert entry.is_animated
    assert near(open_upright(entry.path).getpixel((9, 9)), RED)


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("1", "a.png"), ("P", "a.bmp"), ("L", "a.jpg")])
def test_odd_modes_become_rgb(tmp_path: Path, mode: str, name: str) -> None:
    Image.new("RGB", (70, 66), WHITE).convert(mode).save(tmp_path / name)
    (entry,) = scan(tmp_path).pictures
    opened = open_upright(entry.path)
    assert (entry.mode, opened.mode) == (mode, "RGB")
    assert near(opened.getpixel((9, 9)), WHITE)


def test_a_colour_profile_is_followed_and_a_broken_one_ignored(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    image = Image.new("RGB", (70, 66), RED)
    image.save(tmp_path / "plain.png", icc_profile=profile)
    image.save(tmp_path / "swapped.png", icc_profile=swapped)  # its red is what others call blue
    image.save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    assert near(open_upright(tmp_path / "plain.png").getpixel((9, 9)), RED)
    assert near(open_upright(tmp_path / "swapped.png").getpixel((9, 9)), BLUE)
    assert open_upright(tmp_path / "broken.png").getpixel((9, 9)) == RED


@pytest.mark.parametrize("name", ["tést dír", "emoji 🦊", 'a\'b "c" $(x)', "n" * 200, "CON", "-rf", "%2e%2e", "{{x}}"])
def test_folders_and_files_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    picture().save(folder / f"{name}.png")
    assert names(scan(folder)) == [f"{name}.png"]


def test_hidden_files_captions_and_subfolders_are_no_pictures_but_subfolders_are_told(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a thing")
    picture(colour=GREEN).save(tmp_path / "._b.png")
    (tmp_path / "more").mkdir()
    picture(colour=BLUE).save(tmp_path / "more" / "c.png")
    images = scan(tmp_path)
    assert names(images) == ["a.png"]
    assert images.left_out == ()
    assert images.subfolders == ("more",)


def test_an_empty_folder_and_none_at_all_give_no_pictures(tmp_path: Path) -> None:
    assert scan(tmp_path).pictures == ()
    assert scan(tmp_path / "nowhere").pictures == ()
    assert picture_files(tmp_path / "nowhere") == []


def test_floating_point_pictures_are_refused_since_their_range_is_unknown(tmp_path: Path) -> None:
    Image.new("F", (70, 66), 0.5).save(tmp_path / "a.tiff")
    assert "floating point" in reasons(scan(tmp_path))["a.tiff"]


def test_opening_a_damaged_file_raises_what_is_caught_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DAMAGE):
        open_upright(tmp_path / "a.png")
