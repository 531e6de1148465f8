"""What the loop tells the outside, and what it is asked: events, metrics, checkpoints, samples, control files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.alarms import Alarms
from trainer.checkpoints import CheckpointStore
from trainer.events import (
    Event,
    EventLog,
    MetricsLog,
    Paused,
    Phase,
    PhaseName,
    Resumed,
    Sampled,
    Saved,
    SkippedStep,
    StepMetrics,
    Stopping,
    Warned,
)
from trainer.failures import classify
from trainer.faults import crash_point
from trainer.health import magnitude_drift, update_norms
from trainer.progress_bar import ProgressBar
from trainer.run_dir import RunDir
from trainer.sampling import samples_folder
from trainer.team import ALONE, Team
from trainer.training import Every, Outcome, Training, is_finite, validation_losses
from trainer.writers import Writers

PAUSE_SECONDS = 0.2


class StopAskedError(Exception):
    """A stop was asked for where nothing has to be saved first."""


def answer_stop(run: RunDir) -> None:
    """For all phases but training, which saves first. Raises StopAskedError."""
    if run.requested("stop"):
        raise StopAskedError


@dataclass(frozen=True)
class Watch:
    """`draw`: the samples of a run into a folder, reporting each; `peak_mib`: highest use of the card's memory.

    Of the first process of the run's `team`; while it is busy here it tells the others to wait.
    """

    run: RunDir
    store: CheckpointStore
    draw: Callable[[Path, Callable[[int, int], None]], None]
    peak_mib: Callable[[], float | None]
    bar: ProgressBar
    save_every: Every
    sample_every: Every
    writers: Writers
    team: Team = ALONE
    seconds: list[float] = field(default_factory=list)  # of this process' steps
    alarms: Alarms = field(default_factory=Alarms)

    def event(self, event: Event) -> None:
        EventLog(self.run.events_file).append(event)

    def warn(self, text: str) -> None:
        self.event(Warned(text=text))
        self.bar.say(text)

    def phase(self, name: PhaseName, done: int = 0, total: int = 0) -> None:
        self.event(Phase(name=name, done=done, total=total))

    def report(self, training: Training, outcome: Outcome, seconds: float) -> None:
        """A row of metrics, with the validation loss and the adapter's health where they are due; and the bar."""
        progress = training.progress
        validation = training.validation
        is_due = validation.every.is_due(progress.step) or progress.step == training.steps
        is_checked = validation.every.steps > 0 and is_due
        checked, checked_bands = validation_losses(training) if is_checked else (None, ())
        self.seconds.append(seconds)
        row = StepMetrics(
            step=progress.step,
            loss=outcome.loss,
            band_losses=outcome.band_losses,
            learning_rates=outcome.learning_rates,
            seconds=seconds,
            validation_loss=checked,
            validation_band_losses=checked_bands,
            peak_mib=self.peak_mib(),
            skipped=progress.skipped_in_a_row > 0,
            update_norms=dict(update_norms(training.adapters)) if is_checked else {},
            magnitude_drift=magnitude_drift(training.adapters) if is_checked else None,
        )
        MetricsLog(self.run.metrics_file).append(row)
        crash_point("metrics.appended")
        self.writers.write(row)
        if alarm := self.alarms.heed(row):
            self.warn(alarm)
        self.bar.advance(progress.step, outcome.loss, self.median_seconds)

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds[-50:])

    def report_skipped(self, step: int, reason: str, pictures: Sequence[str]) -> None:
        self.event(SkippedStep(step=step, reason=reason, pictures=tuple(pictures)))
        self.bar.say(f"step {step} is skipped: {reason}, at {', '.join(pictures)}")

    def save_if_due(self, training: Training) -> None:
        """Before samples are drawn, always: drawing is what runs out of memory."""
        is_asked = self.run.requested("save")
        step = training.progress.step
        if is_asked or self._is_last(training) or self.save_every.is_due(step) or self._is_sample_due(training):
            self.save(training)
            self.run.clear("save")

    def save(self, training: Training) -> None:
        """A checkpoint, unless the adapter is broken: then the one before is the last good one, and stays."""
        step = training.progress.step
        if not is_finite(training.adapters):
            self.warn(f"No checkpoint at step {step}: the adapter holds values that are no numbers.")
            return
        self.phase("saving")
        folder = self.store.save(training)
        self.event(Saved(step=step, folder=self._relative(folder)))
        self.phase("training")

    def sample_if_due(self, training: Training) -> None:
        if self._is_sample_due(training):
            self.sample(training)
            self.run.clear("sample")

    def sample_if_missing(self, training: Training) -> None:
        """Those of the step that the run begins or goes on at: a kill may have come between checkpoint and samples."""
        step = training.progress.step
        is_due = step == 0 or self.sample_every.is_due(step) or self._is_last(training)
        if is_due and not samples_folder(self.run.samples_dir, step).exists():
            self.sample(training)

    def sample(self, training: Training) -> None:
        """Draw and report. Whatever goes wrong is a warning: it must not cost the training. Raises StopAskedError."""
        step = training.progress.step
        folder = samples_folder(self.run.samples_dir, step)
        try:
            with training.evaluating():
                self.draw(folder, self._report_picture)
        except StopAskedError:
            raise
        except Exception as error:  # noqa: BLE001 - drawing runs foreign code on a full card; training goes on
            self.warn(f"No samples of step {step}: {classify(error).sentence}")
        else:
            self.event(Sampled(step=step, folder=self._relative(folder)))
            self.writers.show(step, folder)
        self.phase("training")

    def wait_while_paused(self, training: Training) -> None:
        """Everything stays in memory; what else is asked for meanwhile is done."""
        step = training.progress.step
        if not self.run.requested("pause"):
            return
        self.event(Paused(step=step))
        while self.run.requested("pause") and not self.run.requested("stop"):
            if self.run.requested("save") or self.run.requested("sample"):
                self._answer_requests(training)
                self.event(Paused(step=step))
            self.team.tell("wait")
            time.sleep(PAUSE_SECONDS)
        self.event(Resumed(step=step))

    def _answer_requests(self, training: Training) -> None:
        self.save(training)
        self.run.clear("save")
        if self.run.requested("sample"):
            self.sample(training)
            self.run.clear("sample")

    def is_stop_asked(self, step: int) -> bool:
        if not self.run.requested("stop"):
            return False
        self.event(Stopping(step=step))
        return True

    def _is_sample_due(self, training: Training) -> bool:
        step = training.progress.step
        return self.run.requested("sample") or self.sample_every.is_due(step) or self._is_last(training)

    def _report_picture(self, done: int, total: int) -> None:
        answer_stop(self.run)
        self.team.tell("wait")
        self.phase("sampling", done, total)

    @staticmethod
    def _is_last(training: Training) -> bool:
        return training.progress.step == training.steps

    def _relative(self, folder: Path) -> str:
        return folder.relative_to(self.run.path).as_posix()
