"""What chance may make of a caption: each option alone, and all that can come out of it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config_data import CaptionOptions
from trainer.data.wording import is_balanced, plain, vary, wordings

TAGS = "zxc, red, round, on a table"


def drawn(text: str, count: int = 2000, **options: Any) -> Counter[str]:
    return Counter(vary(text, CaptionOptions(**options), Random(seed)) for seed in range(count))


@pytest.mark.parametrize("text", [TAGS, "a {red|green} {{x}} ${y}", "one,two,, three", ""])
def test_without_options_a_caption_stays_as_it_is(text: str) -> None:
    assert drawn(text, 50) == {text: 50}
    assert plain(text, CaptionOptions()) == text
    assert wordings(text, CaptionOptions()) == {text}


def test_trigger_words_come_first_where_they_are_not_there_already() -> None:
    options = CaptionOptions(trigger="sks dog")
    assert plain("on grass", options) == "sks dog, on grass"
    assert plain("a sks dog on grass", options) == "a sks dog on grass"
    assert plain("", options) == "sks dog"


def test_shuffled_tags_come_in_every_order_behind_those_that_are_kept() -> None:
    found = drawn(TAGS, shuffle_tags=True, keep_tags=1)
    assert len(found) == 6  # 3!
    assert all(text.startswith("zxc, ") and sorted(text.split(", ")) == sorted(TAGS.split(", ")) for text in found)
    assert all(0.5 < count / (2000 / 6) < 1.5 for count in found.values())


def test_tags_are_left_out_as_often_as_said_each_by_itself_in_their_order() -> None:
    found = drawn(TAGS, tag_dropout=0.25, keep_tags=1, count=4000)
    assert found[TAGS] / 4000 == pytest.approx(0.75**3, abs=0.03)
    assert found["zxc"] / 4000 == pytest.approx(0.25**3, abs=0.01)
    assert len(found) == 2**3
    with_red = sum(count for text, count in found.items() if "red" in text)
    assert with_red / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_caption_is_left_out_whole_as_often_as_said_trigger_and_kept_tags_too() -> None:
    found = drawn(TAGS, caption_dropout=0.25, trigger="sks", count=4000)
    assert set(found) == {"", f"sks, {TAGS}"}
    assert found[""] / 4000 == pytest.approx(0.25, abs=0.03)
    assert set(drawn(TAGS, 20, caption_dropout=1)) == {""}


def test_of_the_words_in_braces_each_is_taken_as_often_inner_ones_first() -> None:
    found = drawn("a {red|green|dark {blue|grey}} ball", wildcards=True, count=4000)
    assert {text: round(count / 4000, 1) for text, count in found.items()} == {
        "a red ball": 0.3,
        "a green ball": 0.3,
        "a dark blue ball": 0.2,
        "a dark grey ball": 0.2,
    }
    assert plain("a {red|green} ball", CaptionOptions(wildcards=True)) == "a red ball"


@pytest.mark.parametrize(
    ("text", "is_good"),
    [("a {b|c}", True), ("{a{b|c}}", True), ("plain", True), ("a {b", False), ("b} c", False), ("}{", False)],
)
def test_a_brace_without_its_other_one_is_noticed(text: str, is_good: bool) -> None:
    assert is_balanced(text) is is_good


@pytest.mark.parametrize(
    ("text", "options", "count"),
    [
        (TAGS, {"shuffle_tags": True, "keep_tags": 1}, 6),  # 3!
        (TAGS, {"tag_dropout": 0.5, "keep_tags": 2}, 4),  # 2^2
        ("a, b, c", {"tag_dropout": 0.5, "shuffle_tags": True}, 16),  # 1 + 3 + 3 * 2 + 3 * 2
        ("a {b|c|d} {e|f}", {"wildcards": True, "caption_dropout": 0.5}, 7),  # 3 * 2, and none
    ],
)
def test_all_wordings_are_those_that_chance_gives(text: str, options: dict[str, Any], count: int) -> None:
    found = wordings(text, CaptionOptions(**options))
    assert found is not None
    assert len(found) == count
    assert found == set(drawn(text, 3000, **options))


@pytest.mark.parametrize("text", ["a, b, c, d", "a, " * 200, "{a|b}" * 40, "{}" * 5000 + "x, y, z, v"])
def test_too_many_wordings_are_not_listed(text: str) -> None:
    assert wordings(text, CaptionOptions(shuffle_tags=True, wildcards=True)) is None


@settings(deadline=None, max_examples=60)
@given(text=st.text("ab{}|, ", max_size=40), seed=st.integers(0, 99))
def test_whatever_is_drawn_of_whatever_is_written_is_among_the_wordings(text: str, seed: int) -> None:
    options = CaptionOptions(
        trigger="t", wildcards=True, shuffle_tags=True, tag_dropout=0.4, keep_tags=1, caption_dropout=0.2
    )
    found = wordings(text, options, most=500)
    assert found is None or vary(text, options, Random(seed)) in found
