"""What is appended is read back; what is damaged is skipped; nothing is ever read half."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from trainer.events import (
    Event,
    EventLog,
    Failed,
    Finished,
    MetricsLog,
    Phase,
    Saved,
    SkippedStep,
    Started,
    StepMetrics,
    Warned,
    last_values,
    read_events,
    read_last_metrics,
    read_metrics,
)

ROOT = Path(__file__).parents[2]
STARTED = Started(steps=7, pid=1, create_time=2.5, host="here")


def test_events_read_back_equal_and_go_on_from_the_offset(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    first = [STARTED, Phase(name="caching", done=3, total=8), SkippedStep(step=4, reason="NaN", pictures=("ä.png",))]
    for event in first:
        log.append(event)
    events, offset = read_events(log.path)
    assert events == first
    log.append(Finished(step=7))
    assert read_events(log.path, offset)[0][0].kind == "finished"
    assert read_events(log.path, offset)[1] == log.path.stat().st_size


def test_there_are_no_events_before_the_first_one(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == ([], 0)
    assert read_last_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00\xff\xfe garbage\n",
        b'{"v":1,"at":1,"kind":"saved","st\n',
        b"\n\n",
        b'{"v":2,"at":1,"kind":"saved","step":1,"folder":"x"}\n',
        b'{"v":1,"at":1,"kind":"of the future"}\n',
        b"[1,2]\n",
        b'{"v":1,"at":1,"kind":"saved","step":"many","folder":"x"}\n',
    ],
)
def test_a_damaged_line_is_skipped_and_its_neighbours_are_not(tmp_path: Path, damage: bytes) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(STARTED)
    with open(log.path, "ab") as file:
        file.write(damage)
    log.append(Saved(step=3, folder="checkpoints/step-000003"))
    assert [event.kind for event in read_events(log.path)[0]] == ["started", "saved"]


def test_a_line_without_its_end_is_left_for_the_next_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = Finished(step=7).model_dump_json().encode() + b"\n"
    path.write_bytes(line + line[:20])
    events, offset = read_events(path)
    assert (len(events), offset) == (1, len(line))
    path.write_bytes(line + line)
    assert len(read_events(path, offset)[0]) == 1


def test_an_event_after_a_torn_line_is_not_lost_with_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(STARTED)
    with open(log.path, "ab") as file:
        file.write(b'{"v":1,"kind":"sav')
    log.append(Finished(step=7))
    assert [event.kind for event in read_events(log.path)[0]] == ["started", "finished"]


def test_numbers_that_are_none_become_null_in_strict_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(StepMetrics(step=1, loss=math.nan, seconds=0.5, update_norms={"down": math.inf}, skipped=True))

    def refuse(name: str) -> float:
        pytest.fail(f"{name} is no JSON")

    assert json.loads(log.path.read_text(), parse_constant=refuse)["loss"] is None
    row = read_metrics(log.path)[0][0]
    assert (row.loss, row.update_norms, row.skipped) == (None, {"down": None}, True)


@pytest.mark.parametrize(
    "text", [os.fsdecode(b"f\xff.png"), "a\nb\r\x00\u2028c", "<img onerror=x>${alert(1)}{{x}}", ""]
)
def test_any_text_makes_one_line_that_reads_back(tmp_path: Path, text: str) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(Warned(text=text))
    log.append(Failed(sentence=text, trace=text))
    assert log.path.read_bytes().count(b"\n") == 2
    warned, _ = read_events(log.path)[0]
    assert isinstance(warned, Warned)
    assert warned.text == text.encode("utf-8", "replace").decode()


def test_the_end_of_a_long_file_is_read_without_its_beginning(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 300):
        log.append(StepMetrics(step=step, loss=1.0, seconds=0.5))
    rows = read_last_metrics(log.path, tail_bytes=1000)
    assert 1 < len(rows) < 20
    assert [row.step for row in rows] == list(range(300 - len(rows), 300))


def test_of_a_step_that_was_done_twice_the_later_row_counts() -> None:
    rows = [StepMetrics(step=step, loss=loss, seconds=1) for step, loss in [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.4)]]
    assert {step: row.loss for step, row in last_values(rows).items()} == {1: 0.1, 2: 0.4, 3: 0.3}


def test_the_readme_has_every_kind_of_event_and_every_field() -> None:
    readme = (ROOT / "trainer" / "README.md").read_text()
    section = readme.partition("### Events and metrics")[2].partition("\n### ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    documented = {kind.strip(" `"): set(row[2].split()) for row in rows for kind in row[1].split(",")}
    event_types = get_args(get_args(Event)[0])
    assert len(event_types) == len(documented) > 10
    for event_type in event_types:
        fields = event_type.model_fields.keys() - {"v", "at", "uptime", "kind"}
        assert documented[event_type.model_fields["kind"].default] == {f"`{name}`" for name in fields}
    assert all(f"`{name}`" in section for name in StepMetrics.model_fields)


WRITER = """
import sys
from pathlib import Path
from typing import get_args
from trainer.events import EventLog, Phase, MetricsLog, StepMetrics
events, metrics = EventLog(Path(sys.argv[1])), MetricsLog(Path(sys.argv[2]))
for number in range(1500):
    events.append(Phase(name="caching", done=number, total=1500))
    norms = {str(block): 0.25 for block in range(number % 90)}
    metrics.append(StepMetrics(step=number, loss=0.5, seconds=1.0, update_norms=norms))
"""


def test_a_reader_storm_reads_every_line_once_and_none_torn(tmp_path: Path) -> None:
    events_file, metrics_file = tmp_path / "events.jsonl", tmp_path / "metrics.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(events_file), str(metrics_file)], cwd=ROOT)
    seen: list[int] = []
    steps: list[int] = []
    at_events = at_metrics = reads = 0
    is_over = False
    while not is_over:
        is_over = writer.poll() is not None  # before the read, so that the last read sees everything
        events, at_events = read_events(events_file, at_events)
        rows, at_metrics = read_metrics(metrics_file, at_metrics)
        seen += [event.done for event in events if isinstance(event, Phase)]
        steps += [row.step for row in rows]
        reads += 1
    assert writer.wait() == 0
    assert seen == steps == list(range(1500))
    assert reads > 20
