"""Captions of a set: files that come along, typed ones, edits of many, and what is shown of them."""

from __future__ import annotations

import json

import pytest
from transformers import CLIPTokenizer

from app import set_view
from app.caption_edits import Edit, changed, own_captions
from app.draft import DraftFile
from app.image_sets import StoredSet
from app.intake import Intake, Taken
from app.live import Shown
from app.studio import Studio
from app.tokens import count_tokens
from tests.app import pictures
from tests.app.pictures import give
from trainer.base_files import STARTER

SHOWN = Shown("images", "")

TEXT = "café, a red cat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
@pytest.mark.parametrize("ending", [".txt", ".caption"])
def test_a_caption_file_comes_along_in_any_encoding(
    stored: StoredSet, intake: Intake, encoding: str, ending: str
) -> None:
    give(intake, stored, pictures.picture(), "Cat.PNG")
    assert give(intake, stored, TEXT.encode(encoding), f"cat{ending}") == Taken()
    assert list(own_captions(stored).values()) == [TEXT]


def test_a_caption_of_no_picture_is_told(stored: StoredSet, intake: Intake) -> None:
    assert "caption of no picture" in give(intake, stored, b"a dog", "dog.txt").text


def test_pictures_of_the_same_name_get_their_own_captions(stored: StoredSet, intake: Intake) -> None:
    for seed, text in enumerate((b"first", b"second")):
        give(intake, stored, pictures.picture(seed=seed), "1.png")
        give(intake, stored, text, "1.txt")
    assert list(own_captions(stored).values()) == ["first", "second"]


CAPTIONS = {
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "${alert(1)} {{x}}": "${alert(1)} {{x}}",
    "a\0b\x07c": "abc",
    " \t\n ": "",
    "\u202eright to left\u202c": "\u202eright to left\u202c",
    "two\nlines": "two lines",
    "w" * 10_000: "w" * 4000,
}


@pytest.mark.parametrize("typed", CAPTIONS)
def test_captions_are_kept_as_they_were_typed_on_one_line(stored: StoredSet, intake: Intake, typed: str) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    [name] = [path.name for path in stored.pictures()]
    stored.set_caption(name, typed)
    assert stored.own_caption(name) == CAPTIONS[typed]
    assert (stored.folder / name).with_suffix(".txt").exists() == bool(CAPTIONS[typed])


EDITS = {
    "replace": (Edit(find="cat", replace="dog"), {"a": "a red dog"}),
    "literally": (Edit(find="a.", replace="x"), {}),
    "before": (Edit(before="ohwx,"), {"a": "ohwx, a red cat", "b": "ohwx, two birds, 3d style"}),
    "after, not twice": (Edit(after=", 3d style"), {"a": "a red cat, 3d style"}),
    "all": (Edit(find="red ", before="see", after="now"), {"a": "see a cat now", "b": "see two birds, 3d style now"}),
    "away": (Edit(find="a red cat"), {"a": ""}),
    "nothing": (Edit(), {}),
}


@pytest.mark.parametrize("kind", EDITS)
def test_edits_of_many_captions(kind: str) -> None:
    edit, expected = EDITS[kind]
    assert changed({"a": "a red cat", "b": "two birds, 3d style"}, edit) == expected


@pytest.mark.parametrize(
    ("preset", "typed", "bucket"),
    [
        ("", {}, "64x64"),
        ("sd15-subject-dora", {}, "512x512"),
        ("sd15-subject-dora", {"data.resolution_px": "768"}, "768x768"),
        ("sd15-subject-dora", {"data.resolution_px": "7", "optim.learning_rate": "x"}, "512x512"),
        ("no-such", {}, "64x64"),
    ],
)
def test_pictures_are_seen_as_the_draft_would_train_them(
    studio: Studio, stored: StoredSet, intake: Intake, preset: str, typed: dict[str, str], bucket: str
) -> None:
    give(intake, stored, pictures.picture(100, 100), "a.png")
    DraftFile(studio.home).change(lambda draft: draft.but(preset=preset, values=typed))
    [card] = set_view.cards(studio, SHOWN)["pictures"]
    assert "x".join(map(str, card["seen"]["bucket"])) == bucket
    enlarged = [f"smaller than its training size {bucket}: enlarged"] if bucket != "64x64" else []
    assert card["warnings"] == [*enlarged, "no caption"]


@pytest.mark.parametrize("text", ["", "a red cat", "Ohwx, CAFÉ 1234 & co. _x_", "\N{CAT FACE} " * 20])
def test_tokens_are_counted_as_training_counts_them(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(STARTER / "tokenizer"))
    assert count_tokens(text, "starter").count == len(tokenizer(text).input_ids)
    assert count_tokens(text, "nobody/nothing").count <= len(tokenizer(text).input_ids)
    assert not count_tokens(text, "nobody/nothing").is_exact


def test_cards_say_what_training_makes_of_each(studio: Studio, stored: StoredSet, intake: Intake) -> None:
    for name, data in {
        "small.png": pictures.picture(30, 40),
        "long.png": pictures.picture(400, 40, seed=2),
        "wide.png": pictures.picture(300, 100, seed=3),
        "good.png": pictures.picture(128, 128, seed=4),
    }.items():
        give(intake, stored, data, name)
    give(intake, stored, b"word " * 100, "good.txt")
    shown = set_view.cards(studio, SHOWN)
    warnings = {card["name"]: card["warnings"] for card in shown["pictures"]}
    assert warnings["small.png"][0] == "too small (30x40): left out of training"
    assert warnings["long.png"][0] == "extreme shape (400x40): left out of training"
    assert "cut off" in warnings["wide.png"][0]
    assert warnings["good.png"] == ["caption too long: its end is not read"]
    assert shown["count"] == "4 pictures, 3 without a caption, 4 with a warning"
    assert shown["notices"] == ["4 pictures are few: 10 to 50 are usual"]
    assert {card["name"]: card["seen"] for card in shown["pictures"]}["good.png"]["bucket"] == [64, 64]
    json.dumps(shown, allow_nan=False)


def test_cards_follow_every_change_on_disk(studio: Studio, stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    first = set_view.cards(studio, SHOWN)
    [picture] = stored.pictures()
    picture.with_suffix(".txt").write_text("by the command line")
    stored.set_prompt("a pet")
    second = set_view.cards(studio, SHOWN)
    assert (first["pictures"][0]["caption"], first["pictures"][0]["prompt"]) == ("", "")
    assert (second["pictures"][0]["caption"], second["pictures"][0]["prompt"]) == ("by the command line", "a pet")
