"""Schedules, their numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from trainer.config_learning import ScheduleKind
from trainer.schedules import Schedule


def factors(kind: ScheduleKind, steps: int, warmup: int = 0, **fall: float) -> list[float]:
    schedule = Schedule(kind, warmup, steps, **fall)  # type: ignore[arg-type]
    return [schedule.factor(step) for step in range(1, steps + 1)]


def test_cosine_after_warm_up() -> None:
    found = factors("cosine", 10, warmup=2)
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[6] == pytest.approx(0.5)  # half of the eight steps behind warm-up
    assert found[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_a_constant_rate_stays_after_warm_up() -> None:
    assert factors("constant", 5, warmup=2) == [0.5, 1, 1, 1, 1]
    assert factors("constant", 2) == [1, 1]


def test_linear_falls_by_the_same_each_step() -> None:
    assert factors("linear", 6, warmup=2) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])


def test_rex_is_above_the_line() -> None:
    assert factors("rex", 4) == pytest.approx([1, 0.75 / 0.875, 0.5 / 0.75, 0.25 / 0.625])


def test_warmup_stable_decay_stays_and_then_falls_in_its_last_share() -> None:
    assert factors("linear", 10, decay=0.4) == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert factors("linear", 12, warmup=2, decay=0.4)[2:] == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_restarts_begin_again_at_the_peak() -> None:
    """Three falls of three steps each: 1, (1 + cos(pi / 3)) / 2, (1 + cos(2 pi / 3)) / 2."""
    assert factors("cosine", 9, cycles=3) == pytest.approx([1, 0.75, 0.25] * 3)
    assert factors("linear", 10, cycles=2, decay=0.8) == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("cycles", [2, 3, 7, 30])
def test_every_restart_is_found_whatever_rounding_does_to_it(cycles: int) -> None:
    for length in (2, 3, 10, 49):
        assert factors("linear", cycles * length, cycles=cycles)[::length] == pytest.approx([1.0] * cycles)


def test_the_last_step_still_learns() -> None:
    for kind in ("cosine", "linear", "rex"):
        assert 0 < factors(kind, 1000)[-1] < 0.003
