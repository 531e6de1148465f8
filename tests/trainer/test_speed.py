"""Measured speeds: the newest of the same kind of run tells, another one only after scaling, a damaged file nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config_io import parse_config
from trainer.home import Home
from trainer.speed import KEPT, expected_speed, read_speeds, record_speed


def config_of(**sections: Any) -> Any:
    base: dict[str, Any] = {"model": {"base": "b"}, "data": {"folder": "x"}}
    return parse_config({**base, **sections})


def test_the_newest_speed_of_the_same_kind_of_run_is_expected(tmp_path: Path) -> None:
    home, config = Home(tmp_path / "home"), config_of()
    assert expected_speed(home, config, "cpu") is None
    for seconds in (3.0, 2.0):
        record_speed(home, config, "cpu", seconds)
    record_speed(home, config_of(adapter={"kind": "lora"}), "cpu", 1.0)
    expected = expected_speed(home, config, "cpu")
    assert expected is not None
    assert (expected.seconds_per_step, expected.is_same) == (2.0, True)


def test_names_steps_and_seeds_do_not_matter_to_speed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_speed(home, config_of(), "cpu", 2.0)
    expected = expected_speed(home, config_of(name="other", train={"seed": 5, "steps": 7}), "cpu")
    assert expected is not None
    assert expected.is_same


def test_a_run_of_other_size_is_scaled_by_pixels_and_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_speed(home, config_of(), "cuda:0", 1.5)
    larger = config_of(data={"folder": "x", "resolution_px": 1024}, train={"batch_size": 3})
    expected = expected_speed(home, larger, "cuda")
    assert expected is not None
    assert not expected.is_same
    assert expected.seconds_per_step == pytest.approx(1.5 * 4 * 3)


def test_another_device_or_base_model_tells_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_speed(home, config_of(), "cuda", 2.0)
    assert expected_speed(home, config_of(), "cpu") is None
    assert expected_speed(home, config_of(model={"base": "c"}), "cuda") is None


@pytest.mark.parametrize("content", ["", "[", '{"a": 1}', "[1, 2]", '[{"at": 1}]', "null"])
def test_a_damaged_file_is_as_none_and_the_next_run_replaces_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "speed.json").write_text(content)
    assert read_speeds(Home(tmp_path)) == []
    record_speed(Home(tmp_path), config_of(), "cpu", 2.0)
    assert len(read_speeds(Home(tmp_path))) == 1


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    record_speed(Home(tmp_path), config_of(), "cpu", 1.0)
    row = (tmp_path / "speed.json").read_text().strip("[]\n ")
    (tmp_path / "speed.json").write_text(f"[{','.join([row] * KEPT)}]")
    record_speed(Home(tmp_path), config_of(), "cpu", 9.0)
    speeds = read_speeds(Home(tmp_path))
    assert len(speeds) == KEPT
    assert speeds[-1].seconds_per_step == 9.0
