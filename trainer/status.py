"""What a run is doing, told from its folder alone: no process has to write it, so none can leave it wrong."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from trainer.events import (
    Event,
    Exported,
    Failed,
    Finished,
    Paused,
    Phase,
    PhaseName,
    Renamed,
    Resumed,
    Sampled,
    Saved,
    SkippedStep,
    Started,
    StepMetrics,
    Stopped,
    Stopping,
    Warned,
    read_events,
    read_last_metrics,
)
from trainer.lateness import Clock, Silence, silence
from trainer.run_dir import ExitRecord, RunDir

State = Literal[
    "new", "queued", "preparing", "training", "sampling", "stopping", "paused",
    "stopped", "failed", "interrupted", "finished",
]  # fmt: skip
PlaceState = Literal["waiting", "behind", "claimed"]
RECENT_STEPS = 20  # the speed is the median of their times

# phase -> state, in words, and what a stop waits for
PHASES: dict[PhaseName, tuple[State, str, str]] = {
    "starting": ("preparing", "Starting", "a moment"),
    "waiting": ("preparing", "Waiting for the device", "a moment"),
    "checking": ("preparing", "Checking pictures, captions and settings", "the check"),
    "loading": ("preparing", "Loading the base model", "the base model is loaded"),
    "class pictures": ("preparing", "Drawing pictures of the class", "this picture"),
    "caching": ("preparing", "Encoding pictures and captions", "this picture"),
    "training": ("training", "Training", "this step"),
    "sampling": ("sampling", "Drawing samples", "this picture"),
    "saving": ("training", "Saving a checkpoint", "this checkpoint"),
    "exporting": ("training", "Writing the adapter file and checking it", "this file"),
}
LIVE: frozenset[State] = frozenset({"preparing", "training", "sampling", "stopping", "paused"})
ENDED: frozenset[State] = frozenset({"stopped", "failed", "finished"})


@dataclass(frozen=True)
class RunStatus:
    state: State
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    message: str = ""
    fix: str = ""
    phase: PhaseName = "starting"
    warnings: tuple[str, ...] = ()
    skipped_steps: int = 0
    saved_step: int | None = None
    headline: str = ""
    late_seconds: float = 0.0  # how much longer than it should it has said nothing

    @property
    def is_late(self) -> bool:
        """Whether it may have hung; `message` and `fix` say so."""
        return self.late_seconds > 0

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True)
class Place:
    """Where a run stands in the queue: waiting, behind its twin in a claimed job, or claimed; since when."""

    state: PlaceState
    since: float

    def is_news_after(self, events: Sequence[Event]) -> bool:
        """Whether the run's process, if there was one, was an earlier one. A waiting job has none yet."""
        return self.state == "waiting" or not events or events[-1].at < self.since


QUEUED: dict[PlaceState, tuple[State, str]] = {
    "waiting": ("queued", "Waiting for its turn"),
    "behind": ("queued", "Waiting for its twin"),
    "claimed": ("preparing", "Starting"),
}


@dataclass(frozen=True)
class Outside:
    """What is known of a run besides its events: its lock, the queue, its requests, how its process ended, and now."""

    is_locked: bool = False
    place: Place | None = None
    stop_requested: bool = False
    exit: ExitRecord | None = None
    clock: Clock | None = None


def read_status(run: RunDir, place: Place | None = None) -> RunStatus:
    """The status of a run directory. Raises RunGoneError."""
    # The lock first: events that its holder wrote before letting go are then all there to be read.
    outside = Outside(run.is_locked(), place, run.requested("stop"), run.read_exit(), Clock.now())
    events, _ = read_events(run.events_file)
    metrics = read_last_metrics(run.metrics_file)
    run.require()
    return fold(events, metrics, outside)


def fold(events: Sequence[Event], metrics: Sequence[StepMetrics], outside: Outside) -> RunStatus:
    """The status that a run's events, the last of its metrics and its surroundings amount to."""
    status = RunStatus("new", message="Not started yet")
    for event in events:
        status = _after(status, event)
    status = _with_numbers(status, metrics)
    if outside.is_locked and status.state not in ENDED:  # whose process lets go in a moment
        status = _live(status, outside)
        heard = (
            silence(events, metrics, status.phase, status.seconds_per_step, outside.clock) if outside.clock else None
        )
        return _with_silence(status, heard) if heard else status
    if outside.place and outside.place.is_news_after(events):
        state, message = QUEUED[outside.place.state]
        return replace(status, state=state, message=message, fix="", seconds_left=None)
    return _ended(status, outside.exit)


def _after(status: RunStatus, event: Event) -> RunStatus:
    match event:
        case Started():
            return RunStatus(
                "preparing", event.first_step, event.steps, message="Starting", saved_step=status.saved_step
            )
        case Phase():
            state, message, _ = PHASES[event.name]
            counted = f"{message}, {event.done} of {event.total}" if event.total else event.detail or message
            return replace(status, state=state, message=counted, phase=event.name)
        case Sampled() | Renamed():
            return status
        case Saved():
            return replace(status, saved_step=event.step)
        case Exported():
            return replace(status, headline=status.headline or event.headline)  # of the file that comes first
        case Warned():
            return replace(status, warnings=(*status.warnings, event.text))
        case SkippedStep():
            return replace(status, skipped_steps=status.skipped_steps + 1)
        case Stopping():
            return replace(status, state="stopping", step=event.step, message="Saving, then stopping")
        case Stopped():
            return replace(status, state="stopped", step=event.step, message=_stopped_at(event.step, status.steps))
        case Paused():
            return replace(status, state="paused", step=event.step, message=f"Paused at step {event.step}")
        case Resumed():
            return replace(status, state="training", message="Training")
        case Failed():
            state = "stopped" if event.category == "stopped" else "failed"  # Ctrl-C is no failure
            return replace(status, state=state, message=event.sentence, fix=event.fix)
        case Finished():
            return replace(status, state="finished", step=event.step, message="Finished")
        case _:
            assert_never(event)


def _stopped_at(step: int, steps: int) -> str:
    if not step:
        return "Stopped before the first step was saved"
    return f"Stopped and saved at step {step}" + (": resumed, it writes its files" if step == steps else "")


def _with_numbers(status: RunStatus, metrics: Sequence[StepMetrics]) -> RunStatus:
    if not metrics or status.state == "new":
        return status
    last = metrics[-1]
    step = max(status.step, last.step)
    speed = statistics.median(row.seconds for row in metrics[-RECENT_STEPS:])
    loss = next((row.loss for row in reversed(metrics) if row.loss is not None), None)
    left = speed * (status.steps - step) if status.state in LIVE else None
    return replace(status, step=step, loss=loss, seconds_per_step=speed, seconds_left=left)


def _live(status: RunStatus, outside: Outside) -> RunStatus:
    if status.state == "new":  # the process has the lock and has not said anything yet
        return RunStatus("preparing", message="Starting")
    if outside.stop_requested:
        return replace(status, state="stopping", message=f"Stopping after {PHASES[status.phase][2]}")
    return status


def _with_silence(status: RunStatus, heard: Silence) -> RunStatus:
    if status.state == "paused" or not heard.late_seconds:
        return status
    silent, normal = (f"{seconds / 60:.0f} minutes" for seconds in (heard.seconds, heard.allowed_seconds))
    return replace(
        status,
        late_seconds=heard.late_seconds,
        message=f"{status.message}; but nothing was heard of it for {silent}, where {normal} would be much",
        fix="It may have hung. Stop it, stop it again to end it at once, then resume it.",
    )


def _ended(status: RunStatus, exit: ExitRecord | None) -> RunStatus:
    if status.state in ENDED:
        return status
    if status.state == "new":
        return replace(status, state="failed", message=exit.sentence, fix=exit.fix) if exit else status
    said = exit.sentence if exit else "The process ended without a word: killed, or the machine went down."
    hint = "Nothing was saved yet, so it begins anew."
    if status.saved_step is not None:
        hint = f"It goes on from step {status.saved_step} as if nothing had happened."
    fix = f"{exit.fix if exit else 'Resume it.'} {hint}"
    return replace(status, state="interrupted", message=said, fix=fix, seconds_left=None)
