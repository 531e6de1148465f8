"""The draft on disk: kept, shared, and never fatal."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.draft import Draft, DraftFile
from trainer.home import Home


@pytest.fixture
def drafts(tmp_path: Path) -> DraftFile:
    return DraftFile(Home(tmp_path / "home"))


def test_what_is_written_is_read_back_whatever_was_typed(drafts: DraftFile) -> None:
    values = {
        "train.steps": "abc",
        "sample.prompts": 'a "cat"\n{{x}} ${y} \\n',
        "name": "<img onerror=alert(1)>",
        "x.y": "",
    }
    drafts.change(lambda draft: draft.but(preset="starter-lora", set_id="icons", values=values))
    again = DraftFile(drafts.home).read()
    assert (again.preset, again.set_id, again.values) == ("starter-lora", "icons", values)


def test_the_first_read_gives_every_tab_the_same_key(drafts: DraftFile) -> None:
    assert drafts.read().key == drafts.read().key != Draft().key


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 2\n", "version"),
        ("version = 1\nfuture = 3\n", "future"),
        ("[values]\nsteps = 3\n", "steps"),
        ("= broken", "Invalid"),
    ],
)
def test_a_broken_draft_is_set_aside_and_told(drafts: DraftFile, text: str, reason: str) -> None:
    drafts.home.path.mkdir()
    drafts.path.write_text(text)
    draft = drafts.read()
    (aside,) = drafts.home.path.glob("draft-broken-*.toml")
    assert aside.read_text() == text
    assert reason in draft.note
    assert str(aside) in draft.note
    assert drafts.read() == draft


def test_bytes_that_are_no_text_are_set_aside_too(drafts: DraftFile) -> None:
    drafts.home.path.mkdir()
    drafts.path.write_bytes(b"\xff\xfe\x00\x81")
    assert drafts.read().note
    assert [path.read_bytes() for path in drafts.home.path.glob("draft-broken-*")] == [b"\xff\xfe\x00\x81"]


def test_changes_at_the_same_time_are_all_kept(drafts: DraftFile) -> None:
    def put(number: int) -> None:
        drafts.change(lambda draft: draft.but(values={**draft.values, f"key{number}": str(number)}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(24)))
    assert drafts.read().values == {f"key{number}": str(number) for number in range(24)}


def test_a_change_that_fails_leaves_the_draft(drafts: DraftFile) -> None:
    before = drafts.change(lambda draft: draft.but(preset="starter-dora"))

    def fail(draft: Draft) -> Draft:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        drafts.change(fail)
    assert drafts.read() == before


def test_a_set_takes_the_place_of_a_folder_that_was_typed(drafts: DraftFile) -> None:
    drafts.change(lambda draft: draft.but(values={"data.folder": "/elsewhere", "train.steps": "7"}))
    chosen = drafts.choose_set("subject")
    assert (chosen.set_id, chosen.values) == ("subject", {"train.steps": "7"})
    assert tomllib.loads(drafts.path.read_text())["set_id"] == "subject"
