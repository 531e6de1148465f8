"""Curves of a metrics file: they hold what the rows say, however the file grows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from app.series import MOST_BUCKETS, Series, Shelf
from trainer.events import MetricsLog, StepMetrics, last_values


def row(step: int, loss: float | None, validation: float | None = None) -> StepMetrics:
    return StepMetrics(step=step, loss=loss, seconds=0.1, validation_loss=validation)


def write(path: Path, rows: list[StepMetrics]) -> None:
    with open(path, "ab") as file:
        file.writelines(one.model_dump_json().encode() + b"\n" for one in rows)


def fresh(path: Path) -> Series:
    series = Series(path)
    series.read()
    return series


@pytest.mark.parametrize("count", [1, 299, 300, 301, 1037, 10_000])
def test_a_curve_has_the_extremes_and_means_of_its_buckets_and_few_points(tmp_path: Path, count: int) -> None:
    losses = [random.Random(step).uniform(0.01, 1) for step in range(count)]
    write(tmp_path / "m", [row(step, loss) for step, loss in enumerate(losses, 1)])
    curve = fresh(tmp_path / "m").curve()
    width = curve["width"]
    buckets = [losses[start : start + width] for start in range(0, count, width)]
    assert len(curve["mean"]) == len(buckets) <= MOST_BUCKETS
    assert curve["mean"] == pytest.approx([sum(bucket) / len(bucket) for bucket in buckets], rel=1e-3)
    if width > 1:
        assert curve["low"] == pytest.approx([min(bucket) for bucket in buckets], rel=1e-3)
        assert curve["high"] == pytest.approx([max(bucket) for bucket in buckets], rel=1e-3)


def test_a_file_read_as_it_grows_gives_what_one_reading_gives(tmp_path: Path) -> None:
    path, growing = tmp_path / "m", Series(tmp_path / "m")
    growing.read()
    for start in range(1, 900, 13):
        write(path, [row(step, 1 / step, 1.0 if step % 100 == 0 else None) for step in range(start, start + 13)])
        growing.read()
    assert growing.curve() == fresh(path).curve()


def test_an_unfinished_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    path, line = tmp_path / "m", row(1, 0.5).model_dump_json().encode() + b"\n"
    path.write_bytes(line[:20])
    growing = fresh(path)
    assert growing.curve()["steps"] == 0
    path.write_bytes(line)
    growing.read()
    assert growing.curve()["mean"] == [0.5]


def test_a_resume_takes_the_curve_back_and_later_rows_count(tmp_path: Path) -> None:
    rows = [row(step, 0.1) for step in range(1, 51)] + [row(step, 0.9) for step in range(21, 71)]
    write(tmp_path / "m", rows)
    kept = [one.loss for one in last_values(rows).values()]
    assert fresh(tmp_path / "m").curve()["mean"] == kept

    write(tmp_path / "m", [row(31, 0.3, validation=0.4)])
    curve = fresh(tmp_path / "m").curve()
    assert curve["steps"] == 31, "where the run is now, though it was further once"
    assert curve["validation"] == [[31, 0.4]]


def test_values_that_are_no_numbers_and_rows_that_are_none_leave_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, [row(1, 0.5), row(2, None)])
    with open(path, "ab") as file:
        file.write(b'\x00\xff garbage\n{"step": 3}\n')
    write(path, [row(10**12, 1.0), row(5, 0.25)])
    assert fresh(path).curve()["mean"] == [0.5, None, None, None, 0.25]


def test_bands_have_their_own_means_and_follow_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "m"
    of_band = {1: (1.0, None, None, 4.0), 2: (3.0, 2.0, None, None), 3: (9.0, 9.0, 9.0, 9.0)}
    rows = [row(step, 0.5).model_copy(update={"band_losses": bands}) for step, bands in of_band.items()]
    write(
        path, [*rows, row(3, 0.5, validation=1.5).model_copy(update={"validation_band_losses": (1.0, 2.0, 1.5, 1.5)})]
    )
    bands = fresh(path).curve()["bands"]
    assert [band["name"] for band in bands] == ["0-25 %", "25-50 %", "50-75 %", "75-100 %"]
    assert bands[0]["mean"] == [1.0, 3.0, None], "the resumed step had no bands"
    assert bands[1]["mean"] == [None, 2.0, None]
    assert bands[2]["mean"] == [None, None, None]
    assert bands[1]["validation"] == [[3, 2.0]]


def test_a_run_from_before_there_were_bands_has_none(tmp_path: Path) -> None:
    write(tmp_path / "m", [row(1, 0.5, validation=0.4)])
    assert fresh(tmp_path / "m").curve()["bands"] == []


def test_another_file_in_its_place_begins_anew(tmp_path: Path) -> None:
    path, growing = tmp_path / "m", Series(tmp_path / "m")
    write(path, [row(step, 0.5) for step in range(1, 9)])
    growing.read()
    path.rename(tmp_path / "old")  # keeps the inode from being given to the new file
    write(path, [row(1, 0.25)])
    growing.read()
    assert growing.curve()["mean"] == [0.25]


def test_a_file_that_is_gone_is_an_empty_curve(tmp_path: Path) -> None:
    path, growing = tmp_path / "m", Series(tmp_path / "m")
    write(path, [row(1, 0.5)])
    growing.read()
    path.unlink()
    growing.read()
    assert (growing.curve()["steps"], growing.last) == (0, None)


def test_the_shelf_sees_what_was_appended(tmp_path: Path) -> None:
    shelf, log = Shelf(), MetricsLog(tmp_path / "m")
    log.append(row(1, 0.5))
    assert shelf.look(tmp_path / "m").recent_loss == 0.5
    log.append(row(2, 1.5))
    look = shelf.look(tmp_path / "m")
    assert (look.recent_loss, look.curve["steps"]) == (1.0, 2)
