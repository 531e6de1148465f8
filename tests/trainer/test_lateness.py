"""A run that says nothing for longer than its phase may take is told as late, whatever the clock on the wall says."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from trainer.events import Event, EventLog, Paused, Phase, PhaseName, Started, StepMetrics
from trainer.lateness import ALLOWED_SECONDS, Clock, allowed_seconds, silence
from trainer.processes import Identity
from trainer.run_dir import RunDir
from trainer.status import Outside, RunStatus, fold, read_status

BEGUN = Started(uptime=1000, steps=50, pid=1, create_time=1, host="here")
TRAINING = Phase(uptime=1010, name="training")


def rows(uptime: float, seconds: float, count: int = 5) -> list[StepMetrics]:
    return [StepMetrics(uptime=uptime, step=step, loss=1, seconds=seconds) for step in range(1, count + 1)]


def status_at(uptime: float, events: list[Event], metrics: list[StepMetrics] | None = None) -> RunStatus:
    return fold(events, metrics or [], Outside(is_locked=True, clock=Clock("here", uptime)))


def test_every_phase_has_an_allowance() -> None:
    assert ALLOWED_SECONDS.keys() == set(get_args(PhaseName))


@pytest.mark.parametrize(
    ("phase", "speed", "allowed"),
    [
        ("loading", None, 600),
        ("loading", 1.0, 600),
        ("training", None, 300),  # the first step, which may compile
        ("training", 0.25, 60),
        ("training", 9.0, 180),
        ("waiting", None, math.inf),
    ],
)
def test_what_a_phase_may_take(phase: PhaseName, speed: float | None, allowed: float) -> None:
    assert allowed_seconds(phase, speed) == allowed


@pytest.mark.parametrize(
    ("events", "metrics", "last_good"),
    [
        ([BEGUN], [], 1000 + 600),
        ([BEGUN, Phase(uptime=1010, name="caching", done=3, total=8)], [], 1010 + 600),
        ([BEGUN, TRAINING], [], 1010 + 300),
        ([BEGUN, TRAINING], rows(1100, 2.0), 1100 + 60),
        ([BEGUN, TRAINING], rows(1100, 30.0), 1100 + 600),
        ([BEGUN, TRAINING, Phase(uptime=1200, name="exporting")], rows(1100, 2.0), 1200 + 1800),
    ],
)
def test_a_silence_is_late_from_its_allowance_on(
    events: list[Event], metrics: list[StepMetrics], last_good: float
) -> None:
    on_time, late = status_at(last_good, events, metrics), status_at(last_good + 30, events, metrics)
    assert (on_time.is_late, on_time.late_seconds) == (False, 0)
    assert (late.is_late, late.late_seconds) == (True, 30)
    assert late.state == on_time.state
    assert late.message.startswith(f"{on_time.message}; but nothing was heard of it for")
    assert "Stop it" in late.fix
    assert "nothing was heard" not in on_time.message


def test_who_waits_or_is_paused_or_has_ended_is_never_late() -> None:
    assert not status_at(1e9, [BEGUN, Phase(uptime=1010, name="waiting", detail="The processor is in use")]).is_late
    assert not status_at(1e9, [BEGUN, TRAINING, Paused(uptime=1200, step=3)]).is_late
    assert not fold([BEGUN, TRAINING], [], Outside(is_locked=False, clock=Clock("here", 1e9))).is_late


def test_the_clock_on_the_wall_takes_no_part() -> None:
    for shift in (-86400.0, 86400.0):  # set between the start and the steps
        moved = [row.model_copy(update={"at": row.at + shift}) for row in rows(1100, 2.0)]
        assert not status_at(1150, [BEGUN, TRAINING.model_copy(update={"at": BEGUN.at + shift})], moved).is_late
        assert status_at(1170, [BEGUN, TRAINING.model_copy(update={"at": BEGUN.at + shift})], moved).is_late


def test_steps_from_before_the_machine_was_started_again_are_no_sign_of_life() -> None:
    old = rows(900_000, 2.0)  # that uptime was long
    assert status_at(1300, [BEGUN, TRAINING], old).is_late is False  # five minutes for the first step
    assert status_at(1311, [BEGUN, TRAINING], old).late_seconds == 1


def test_a_run_of_another_machine_is_not_judged() -> None:
    assert silence([BEGUN, TRAINING], [], "training", None, Clock("there", 1e9)) is None
    assert silence([], [], "starting", None, Clock("here", 1e9)) is None


def test_a_stop_that_is_not_answered_is_told_as_late_too() -> None:
    outside = Outside(is_locked=True, stop_requested=True, clock=Clock("here", 2000))
    status = fold([BEGUN, TRAINING], rows(1100, 2.0), outside)
    assert (status.state, status.is_late) == ("stopping", True)
    assert not fold([BEGUN, TRAINING], rows(1100, 2.0), replace(outside, clock=Clock("here", 1101))).is_late


def test_from_the_disk(tmp_path: Path) -> None:
    run = RunDir.make(tmp_path, "x", {"run.toml": b""})
    me = Identity.of()
    events = EventLog(run.events_file)
    events.append(Started(steps=5, pid=me.pid, create_time=me.create_time, host=me.host))
    events.append(Phase(name="training"))
    with run.hold():
        assert not read_status(run).is_late
        events.append(Phase(name="training", uptime=time.monotonic() - 301))
        assert read_status(run).late_seconds == pytest.approx(1, abs=0.9)
