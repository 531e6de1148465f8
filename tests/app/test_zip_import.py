"""Zips: what is taken out of them, and what is not even opened."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from app.caption_edits import own_captions
from app.image_sets import ImageSets, StoredSet
from app.intake import Intake, NoSuchZipError
from app.zip_import import BadZipError
from tests.app import pictures
from tests.app.pictures import names
from trainer.failures import ExplainedError


def take_zip(stored: StoredSet, path: Path, intake: Intake) -> list[tuple[str, str]]:
    """All of it, as the page does; what was told of which file."""
    intake.folder.mkdir(parents=True, exist_ok=True)
    kept, contents = intake.keep_zip(path)
    told = list(contents.left_out)
    for member in contents.members:
        try:
            intake.take_member(stored, kept, member.index)
        except ExplainedError as error:
            told.append((member.name, str(error)))
    intake.forget_zip(kept)
    return told


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "some.zip"


def test_a_zip_is_flattened_and_captions_find_their_pictures(
    sets: ImageSets, stored: StoredSet, intake: Intake, archive: Path
) -> None:
    archive.write_bytes(
        pictures.zipped(
            {
                "cats/one.txt": b"the first",
                "cats/one.png": pictures.picture(seed=1),
                "../../two.png": pictures.picture(seed=2),
                "/etc/three.png": pictures.picture(seed=3),
                "C:\\Windows\\four.png": pictures.picture(seed=4),
                "dup.png": pictures.picture(seed=5),
                "DUP.png": pictures.picture(seed=6),
                "more.zip": pictures.zipped({"x.png": pictures.picture()}),
                "film.mp4": b"film",
                "__MACOSX/cats/._one.png": b"junk",
                ".DS_Store": b"junk",
                "half.png": pictures.picture(seed=7)[:50],
            }
        )
    )
    told = dict(take_zip(stored, archive, intake))
    assert names(stored) == ["one.png", "two.png", "three.png", "four.png", "dup.png", "DUP.png"]
    assert list(own_captions(stored).values()) == ["the first"]
    assert told["more.zip"] == "an archive within the archive is not opened"
    assert told["film.mp4"] == "neither a picture nor a caption"
    assert told["half.png"].startswith("damaged")
    assert len(told) == 3
    assert not list(sets.root.parent.parent.rglob("two.png"))


def test_links_in_a_zip_are_left_out(stored: StoredSet, intake: Intake, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as out:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(link, "/etc/passwd")
    assert take_zip(stored, archive, intake) == [("link.png", "a link, not a file")]
    assert names(stored) == []


BAD_ZIPS = {
    "bomb": (pictures.zipped({"a.png": b"\0" * 3_000_000}), "it would unpack to 3 MB"),
    "many": (pictures.zipped({f"{number}.png": b"" for number in range(10_000)}), "10000 files"),
    "locked": (pictures.locked(pictures.zipped({"a.png": pictures.picture()})), "password"),
    "truncated": (pictures.zipped({"a.png": pictures.picture()})[:-30], "damaged, or not whole"),
    "empty": (b"", "damaged, or not whole"),
    "no zip": (b"Rar!", "damaged, or not whole"),
}


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_bad_zips_are_refused_before_anything_is_unpacked(
    stored: StoredSet, intake: Intake, archive: Path, kind: str
) -> None:
    data, reason = BAD_ZIPS[kind]
    archive.write_bytes(data)
    with pytest.raises(BadZipError, match=reason):
        take_zip(stored, archive, intake)
    assert names(stored) == []


def test_a_member_that_is_not_what_the_zip_says_is_told(stored: StoredSet, intake: Intake, archive: Path) -> None:
    data = bytearray(pictures.zipped({"a.png": pictures.picture(), "b.png": pictures.picture(seed=2)}))
    data[60:90] = bytes(30)
    archive.write_bytes(bytes(data))
    told = dict(take_zip(stored, archive, intake))
    assert "damaged in the zip" in told["a.png"]
    assert names(stored) == ["b.png"]


@pytest.mark.parametrize("kept", ["..", "zip-", "zip-nothing", "../zip-x", "", "zip-a/../.."])
def test_a_zip_is_found_by_its_own_name_only(intake: Intake, stored: StoredSet, kept: str) -> None:
    intake.folder.mkdir(parents=True)
    with pytest.raises(NoSuchZipError):
        intake.take_member(stored, kept, 0)
    with pytest.raises(NoSuchZipError):
        intake.forget_zip(kept)
