"""Captions: from sidecar files in any encoding, else the prompt of the set, and nothing goes unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.data.captions import SUFFIXES, BadMetadataError, clean, decode, read_caption, read_captions

TEXT = "a café — “quoted”, naïve façade"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"],  # utf-16: with its mark
)
def test_common_encodings_are_read(encoding: str) -> None:
    assert decode(TEXT.encode(encoding)).removeprefix("\ufeff") == TEXT


def test_big_endian_with_a_mark_and_old_western_text_are_read() -> None:
    assert decode(b"\xfe\xff" + TEXT.encode("utf-16-be")) == TEXT
    assert decode("café".encode("latin-1")) == "café"


@settings(deadline=None)
@given(data=st.binary(max_size=300))
@example(data=b"!\t\0\t!")
def test_any_bytes_give_some_clean_line(data: bytes) -> None:
    text = clean(decode(data))
    assert text == clean(text)
    assert not any(character < " " or character == "\x7f" for character in text)


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])))
def test_what_is_written_as_utf_8_reads_back(text: str) -> None:
    assert decode(text.encode()) == text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a red\x00 panda\n", "a red panda"),
        ("two\r\nlines\t and  spaces ", "two lines and spaces"),
        ("חתול כתום", "חתול כתום"),
        (
            "<img src=x onerror=alert(1)> ${alert(1)} {{x}} [bold]",
            "<img src=x onerror=alert(1)> ${alert(1)} {{x}} [bold]",
        ),
        ("x" * 10_000, "x" * 10_000),
    ],
)
def test_captions_are_one_line_and_otherwise_literal(tmp_path: Path, written: str, read: str) -> None:
    (tmp_path / "a.txt").write_text(written, encoding="utf-8", newline="")
    assert read_caption(tmp_path / "a.png", "prompt").text == read


def test_found_and_missing_are_counted_and_an_empty_file_is_a_missing_one(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": "one",
        "b.caption": "two",
        "c.txt": " \n\t",
        "old.txt": "of a deleted picture",
    }.items():
        (tmp_path / name).write_text(content)
    pictures = [tmp_path / name for name in ("a.png", "b.jpg", "c.png", "d.webp")]
    captions = read_captions(pictures, "a thing")
    assert [captions.by_picture[picture].text for picture in pictures] == ["one", "two", "a thing", "a thing"]
    assert captions.found == 2
    assert captions.missing == (tmp_path / "c.png", tmp_path / "d.webp")
    assert captions.unused == (tmp_path / "old.txt",)


def test_of_both_files_the_txt_counts_unless_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("from txt")
    (tmp_path / "a.caption").write_text("from caption")
    assert read_caption(tmp_path / "a.png", "").text == "from txt"
    (tmp_path / "a.txt").write_text("")
    assert read_caption(tmp_path / "a.png", "").text == "from caption"


def test_a_name_with_dots_and_two_pictures_of_one_stem_find_their_caption(tmp_path: Path) -> None:
    (tmp_path / "v1.2 final.txt").write_text("dotted")
    assert read_caption(tmp_path / "v1.2 final.png", "").text == "dotted"
    captions = read_captions([tmp_path / "v1.2 final.png", tmp_path / "v1.2 final.jpg"], "")
    assert captions.found == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_panda (3).jpg", "red panda"),
        ("03-wrapped-gift.png", "wrapped-gift"),
        ("a photo_of a dog_012.webp", "a photo of a dog"),
        ("17. worm.png", "worm"),
        ("v1.2 final.png", "v1.2 final"),
        ("IMG_2034.jpg", ""),
        ("00012.png", ""),
        ("DSCF0001 (2).JPG", ""),
        ("20260131_120000.jpg", ""),
    ],
)
def test_a_file_name_becomes_words_and_what_cameras_write_none(tmp_path: Path, name: str, words: str) -> None:
    caption = read_captions([tmp_path / name], "a thing", "name").by_picture[tmp_path / name]
    assert caption.text == words or (not words and caption.text == "a thing" and caption.file is None)


def test_captions_come_from_where_the_set_says(tmp_path: Path) -> None:
    picture = tmp_path / "red_panda.png"
    (tmp_path / "red_panda.txt").write_text("from the file")
    texts = [
        read_captions([picture], "prompt", source).by_picture[picture].text for source in ("file", "name", "prompt")
    ]
    assert texts == ["from the file", "red panda", "prompt"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_usual_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("said here")
    assert read_captions([tmp_path / "a.png"], "").found == 1


def test_metadata_jsonl_has_the_captions_that_no_text_file_has(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": "from metadata"}, {"file_name": "b.png", "text": "b\n", "width": 3}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-16")
    (tmp_path / "a.txt").write_text("from txt")
    captions = read_captions([tmp_path / name for name in ("a.png", "b.png", "c.png")], "prompt")
    assert [caption.text for caption in captions.by_picture.values()] == ["from txt", "b", "prompt"]
    assert captions.found == 2


@pytest.mark.parametrize("line", ['{"file_name": "a.png"}', '{"file_name": "a.png", "text"', "a.png;text", "[1]", "3"])
def test_metadata_that_cannot_be_read_is_told_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "fine"}\n' + line)
    with pytest.raises(BadMetadataError, match=r"metadata\.jsonl, line 2, is not"):
        read_captions([tmp_path / "a.png"], "")
