"""What can be asked of a run: the page's buttons, told by its status alone and done by the trainer's own means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.known_runs import known_runs
from app.setup_form import fill_from_run
from app.studio import Studio
from trainer.failures import ExplainedError
from trainer.queue import Queue
from trainer.run_dir import Request, RunDir
from trainer.status import RunStatus, State
from trainer.store import NoSuchRunError
from trainer.worker import ensure_worker

LONGEST_NAME = 120


@dataclass(frozen=True)
class Action:
    """A button. `look` is primary, danger or plain."""

    name: str
    label: str
    look: str = "plain"


PAUSE, CONTINUE = Action("pause", "Pause"), Action("unpause", "Continue", "primary")
SAMPLE, SAVE = Action("sample", "Sample now"), Action("save", "Save now")
STOP, END = Action("stop", "Stop & save", "danger"), Action("end", "End at once", "danger")
START, RESUME = Action("resume", "Start", "primary"), Action("resume", "Resume", "primary")
DRAW = Action("draw", "Draw samples")
LEAVE = Action("stop", "Take off the queue")
CLONE, RENAME, DELETE = Action("clone", "Clone to Setup"), Action("rename", "Rename"), Action("delete", "Delete")
KEEPING = (CLONE, RENAME, DELETE)

BY_STATE: Mapping[State, tuple[Action, ...]] = {
    "new": (START, *KEEPING),
    "queued": (LEAVE, CLONE, RENAME),
    "preparing": (STOP, CLONE),
    "training": (PAUSE, SAMPLE, SAVE, STOP, CLONE),
    "sampling": (PAUSE, SAMPLE, SAVE, STOP, CLONE),
    "stopping": (END, CLONE),
    "paused": (CONTINUE, STOP, CLONE),
    "stopped": (RESUME, *KEEPING),
    "failed": (RESUME, *KEEPING),
    "interrupted": (RESUME, *KEEPING),
    "finished": KEEPING,
}


def actions(status: RunStatus) -> tuple[Action, ...]:
    """The buttons of a run, in their order. Samples of a run that does not work are drawn with its checkpoint."""
    fitting = BY_STATE[status.state]
    can_draw = DELETE in fitting and status.saved_step is not None
    return (*fitting[:-3], DRAW, *KEEPING) if can_draw else fitting


def act(studio: Studio, run_id: str, name: str) -> str:
    """Do it; returns what was done, as a sentence. Raises ExplainedError where the run is not in a state for it."""
    if name == "restore":
        return _restore(studio, run_id)
    known = known_runs(studio.home).find(run_id)
    if known is None:
        raise NoSuchRunError("This run is gone.", "It was deleted or moved.")
    status = studio.store.status(known.run)
    if name not in {one.name for one in actions(status)}:
        if name == "stop" and status.state in ("stopping", "stopped"):
            return ""  # a double click
        raise ExplainedError(f"It is {status.state} by now.", "")
    said = DOING[name](studio, known.run)
    known_runs(studio.home).look_again()
    return said


def rename(studio: Studio, run_id: str, name: str) -> str:
    known = known_runs(studio.home).find(run_id)
    wanted = " ".join(name.split())
    if known is None:
        raise NoSuchRunError("This run is gone.", "It was deleted or moved.")
    if not 0 < len(wanted) <= LONGEST_NAME:
        raise ExplainedError(f"A name has 1 to {LONGEST_NAME} characters.", f"This one has {len(wanted)}.")
    studio.store.rename(known.run, wanted)
    known_runs(studio.home).look_again()
    return ""


def is_in_trash(studio: Studio, run_id: str) -> bool:
    return Path(run_id).name == run_id != "" and RunDir(studio.store.trash / run_id).exists()


def _asked(what: Request, said: str) -> Callable[[Studio, RunDir], str]:
    def ask(_: Studio, run: RunDir) -> str:
        run.request(what)
        return said

    return ask


def _go_on(_: Studio, run: RunDir) -> str:
    run.clear("pause")
    return ""


def _stop(studio: Studio, run: RunDir) -> str:
    """Never more than the first press of `Store.stop`, which kills when it is asked twice."""
    return "" if run.requested("stop") else studio.store.stop(run)


def _end(studio: Studio, run: RunDir) -> str:
    return studio.store.stop(run)


def _resume(studio: Studio, run: RunDir) -> str:
    studio.store.requeue(run)
    ensure_worker(studio.home)
    return ""


def _draw(studio: Studio, run: RunDir) -> str:
    Queue(studio.home).submit("sample", [run.path])
    ensure_worker(studio.home)
    return "Samples of the newest checkpoint are drawn when the queue comes to it."


def _clone(studio: Studio, run: RunDir) -> str:
    fill_from_run(studio, run.id)
    return ""


def _delete(studio: Studio, run: RunDir) -> str:
    studio.store.delete(run)
    return ""


def _restore(studio: Studio, run_id: str) -> str:
    if not is_in_trash(studio, run_id):
        raise NoSuchRunError("It is not in the trash.", "")
    studio.store.restore(run_id)
    known_runs(studio.home).look_again()
    return ""


DOING: Mapping[str, Callable[[Studio, RunDir], str]] = {
    "pause": _asked("pause", "It pauses after this step."),
    "unpause": _go_on,
    "sample": _asked("sample", "It draws after this step."),
    "save": _asked("save", "It saves after this step."),
    "stop": _stop,
    "end": _end,
    "resume": _resume,
    "draw": _draw,
    "clone": _clone,
    "delete": _delete,
}
