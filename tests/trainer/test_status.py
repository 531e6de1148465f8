"""A run's status, from its events, its lock, the queue and how its process ended: one row of a table each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trainer.events import (
    Event,
    EventLog,
    Exported,
    Failed,
    Finished,
    Paused,
    Phase,
    Resumed,
    Sampled,
    Saved,
    SkippedStep,
    Started,
    StepMetrics,
    Stopped,
    Stopping,
    Warned,
)
from trainer.run_dir import ExitRecord, RunDir, RunGoneError
from trainer.status import Outside, Place, State, fold, read_status

BEGUN = Started(at=100, steps=50, pid=1, create_time=1)
TRAINING = Phase(at=101, name="training")
SAVED = Saved(at=102, step=20, folder="checkpoints/step-000020")
LIVE, FREE = Outside(is_locked=True), Outside()
KILLED = ExitRecord(at=103, code=-9, sentence="Killed by the system.", fix="Close other programs.")


@pytest.mark.parametrize(
    ("events", "outside", "state", "message"),
    [
        ([], FREE, "new", "Not started"),
        ([], Outside(place=Place("waiting", 99)), "queued", "turn"),
        ([], Outside(place=Place("behind", 99)), "queued", "twin"),
        ([], Outside(place=Place("claimed", 99)), "preparing", "Starting"),
        ([], LIVE, "preparing", "Starting"),
        ([], Outside(exit=KILLED), "failed", "Killed"),
        ([BEGUN], LIVE, "preparing", "Starting"),
        ([BEGUN, Phase(at=101, name="caching", done=3, total=8)], LIVE, "preparing", "3 of 8"),
        ([BEGUN, TRAINING], LIVE, "training", "Training"),
        ([BEGUN, TRAINING, Phase(at=102, name="sampling")], LIVE, "sampling", "samples"),
        (
            [BEGUN, TRAINING, Phase(at=102, name="sampling"), Sampled(step=1, folder="x"), TRAINING],
            LIVE,
            "training",
            "",
        ),
        ([BEGUN, TRAINING], replace(LIVE, stop_requested=True), "stopping", "this step"),
        ([BEGUN, TRAINING, Stopping(step=3)], LIVE, "stopping", "Saving"),
        ([BEGUN, TRAINING, Paused(step=3)], LIVE, "paused", "step 3"),
        ([BEGUN, TRAINING, Paused(step=3), Resumed(step=3)], LIVE, "training", "Training"),
        ([BEGUN, TRAINING, Phase(at=102, name="exporting")], LIVE, "training", "adapter file"),
        ([BEGUN, TRAINING, Stopped(step=3)], FREE, "stopped", "step 3"),
        ([BEGUN, Failed(at=102, sentence="No memory.", fix="Less.")], FREE, "failed", "No memory."),
        ([BEGUN, Failed(at=102, sentence="No memory.", fix="Less.")], Outside(exit=KILLED), "failed", "No memory."),
        ([BEGUN, TRAINING, Failed(category="stopped", sentence="Stopped by Ctrl-C.")], FREE, "stopped", "Ctrl-C"),
        ([BEGUN, TRAINING, Finished(step=50)], FREE, "finished", "Finished"),
        # the lock is free and nobody said goodbye
        ([BEGUN], FREE, "interrupted", "without a word"),
        ([BEGUN, TRAINING, Paused(step=3)], FREE, "interrupted", "without a word"),
        ([BEGUN, TRAINING], Outside(exit=KILLED), "interrupted", "Killed"),
        ([BEGUN, TRAINING], replace(FREE, stop_requested=True), "interrupted", "without a word"),
        # taken up again after an end: only what came after the new start counts
        ([BEGUN, Failed(sentence="x"), BEGUN, TRAINING], LIVE, "training", "Training"),
        ([BEGUN, Failed(sentence="x")], LIVE, "failed", "x"),
        ([BEGUN, Finished(step=6)], LIVE, "finished", "Finished"),
        ([BEGUN, Finished(step=50), BEGUN], FREE, "interrupted", "without a word"),
        # queued again; the clock may have been set back since
        ([BEGUN, Failed(at=102, sentence="x")], Outside(place=Place("waiting", 90)), "queued", "turn"),
        ([BEGUN, Failed(at=102, sentence="x")], Outside(place=Place("claimed", 110)), "preparing", "Starting"),
        # a worker has not noticed the end yet
        ([BEGUN, Failed(at=102, sentence="x")], Outside(place=Place("claimed", 99)), "failed", "x"),
        ([BEGUN, TRAINING], Outside(place=Place("claimed", 99)), "interrupted", "without a word"),
        ([BEGUN, Finished(at=102, step=50)], Outside(place=Place("behind", 99)), "finished", "Finished"),
    ],
)
def test_state_and_message(events: list[Event], outside: Outside, state: State, message: str) -> None:
    status = fold(events, [], outside)
    assert status.state == state
    assert message in status.message


def test_an_interrupted_run_says_whether_there_is_a_checkpoint_to_go_on_from() -> None:
    assert "begins anew" in fold([BEGUN, TRAINING], [], FREE).fix
    assert "step 20" in fold([BEGUN, TRAINING, SAVED], [], FREE).fix
    assert fold([BEGUN, SAVED], [], Outside(exit=KILLED)).fix.startswith(KILLED.fix)
    # a checkpoint from before the last start is one too
    assert "step 20" in fold([BEGUN, SAVED, BEGUN.model_copy(update={"first_step": 20})], [], FREE).fix


def test_numbers_come_from_the_last_rows_and_the_time_left_from_their_median() -> None:
    seconds = [60.0, *[1.0] * 8, 30.0, 1.0]  # a slow first step, and a pause within another
    rows = [StepMetrics(step=step, loss=1 / step, seconds=second) for step, second in enumerate(seconds, start=1)]
    status = fold([BEGUN, TRAINING, SAVED], rows, LIVE)
    assert (status.step, status.steps, status.loss, status.seconds_per_step) == (11, 50, 1 / 11, 1.0)
    assert status.seconds_left == 39.0
    assert status.saved_step == 20
    assert fold([BEGUN, TRAINING, Stopped(step=11)], rows, FREE).seconds_left is None


def test_a_loss_that_is_no_number_leaves_the_last_one_that_was() -> None:
    rows = [StepMetrics(step=1, loss=0.5, seconds=1), StepMetrics(step=2, loss=None, seconds=1, skipped=True)]
    status = fold([BEGUN, TRAINING, SkippedStep(step=2, reason="NaN")], rows, LIVE)
    assert (status.step, status.loss, status.skipped_steps) == (2, 0.5, 1)


def test_a_resumed_run_stands_where_it_resumes_even_if_later_steps_were_lost() -> None:
    resumed = BEGUN.model_copy(update={"first_step": 20})
    rows = [StepMetrics(step=step, loss=0.5, seconds=1) for step in (*range(1, 28), 21)]
    assert fold([BEGUN, SAVED, resumed, TRAINING], rows, LIVE).step == 21


def test_warnings_and_the_headline_of_the_export_are_part_of_the_status() -> None:
    files = [Exported(file=name, headline=f"{name} proven") for name in ("first", "second")]
    status = fold([BEGUN, Warned(text="a"), Warned(text="b"), *files], [], LIVE)
    assert (status.warnings, status.headline) == (("a", "b"), "first proven")


def test_a_run_whose_folder_was_deleted_is_gone(tmp_path: Path) -> None:
    run = RunDir.make(tmp_path, "x", {"run.toml": b""})
    EventLog(run.events_file).append(BEGUN)
    assert read_status(run).state == "interrupted"
    run.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RunGoneError, match="gone"):
        read_status(run)
