"""The runs of a home: found, stopped, cloned, renamed, queued again, thrown away and brought back."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dora_core.atomic import atomic_write
from trainer.config import RunConfig
from trainer.config_io import config_from, dump_config, parse_config, read_toml
from trainer.events import Started, read_events
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.processes import Identity, kill_tree
from trainer.queue import TRAINING, UNDONE, Job, Queue
from trainer.run_dir import UNFINISHED, RunDir
from trainer.status import RunStatus, read_status

TRASH = ".trash"
MINUTE = len("2026-01-31-1412")  # ids begin with it
NEAREST = 3


class NoSuchRunError(ExplainedError):
    """A name that is no run's, or that of several."""

    category = "bad settings"


@dataclass(frozen=True)
class Listed:
    run: RunDir
    status: RunStatus


@dataclass(frozen=True)
class Store:
    home: Home

    @property
    def queue(self) -> Queue:
        return Queue(self.home)

    @property
    def trash(self) -> Path:
        return self.home.runs / TRASH

    def create(self, config: RunConfig) -> RunDir:
        return RunDir.create(self.home.runs, config)

    def list_runs(self) -> list[Listed]:
        """All runs with their status, the newest first."""
        return [Listed(run, self.status(run)) for run in reversed(runs_in(self.home.runs))]

    def find(self, name: str) -> RunDir:
        """The run that a person means by `name`: its folder, or what `pick` takes. Raises NoSuchRunError."""
        path = Path(name)
        if (run := RunDir(path.absolute())).exists():
            return run
        if len(path.parts) > 1:
            said = "has no run.toml in it" if path.exists() else "is not there"
            raise NoSuchRunError(f"{name} is no run: it {said}.", "`dora-studio runs list` shows all runs.")
        return pick(name, self.home.runs)

    def status(self, run: RunDir) -> RunStatus:
        """The run's status. Raises RunGoneError."""
        return read_status(run, self.queue.place(run))

    def stop(self, run: RunDir) -> str:
        """Ask the run to save and stop; asked again before it has, kill it. A run that waits leaves the queue.

        Returns what was done, as a sentence; stopping what does not run does nothing.
        """
        job = self._job_of(run)
        if job is not None and self.queue.cancel(job):
            return "Taken off the queue."
        status = self.status(run)
        if not status.is_live and status.state != "queued":
            return "It is not running."
        if not run.requested("stop"):
            run.request("stop")
            return "It saves and stops as soon as nothing is lost. Stop again to end it at once."
        if status.state == "queued":
            return "It stops as soon as its turn comes."
        run.request("kill")
        killed = [kill_tree(process) for process in self._processes(run, job)]
        return "Ended at once." if any(killed) else "It had ended already."

    def clone(self, run: RunDir, name: str, changes: Sequence[str] = ()) -> RunDir:
        """A new run with the same settings, but another name and these key=value; not started. Raises ConfigError."""
        return self.create(config_from(read_toml(run.config_file), changes).model_copy(update={"name": name}))

    def rename(self, run: RunDir, name: str) -> None:
        """Give the run another name. Its folder keeps the one it has, so nothing that points to it breaks."""
        config = self.config(run).model_copy(update={"name": name})
        with atomic_write(run.config_file) as file:
            file.write(dump_config(config).encode())

    def requeue(self, run: RunDir) -> Job:
        """Queue the run, to begin or to go on from its last checkpoint."""
        return self.queue.submit("train", [run.path])

    def delete(self, run: RunDir) -> Path:
        """Move the run to the trash folder, where `restore` finds it. Raises ExplainedError while it is live."""
        self._refuse_if_busy(run)
        self.trash.mkdir(parents=True, exist_ok=True)
        return run.path.rename(self.trash / run.id)

    def restore(self, name: str) -> RunDir:
        """Bring back the run of the trash that `pick` takes. Raises NoSuchRunError."""
        run = pick(name, self.trash)
        return RunDir(run.path.rename(self.home.runs / run.id))

    def empty_trash(self) -> int:
        """Delete for good what is in the trash; how many runs there were."""
        thrown = [path for path in self.trash.iterdir() if path.is_dir()] if self.trash.exists() else []
        for path in thrown:
            shutil.rmtree(path)
        return len(thrown)

    def config(self, run: RunDir) -> RunConfig:
        return parse_config(read_toml(run.config_file))

    def _refuse_if_busy(self, run: RunDir) -> None:
        status = self.status(run)
        if status.is_live or status.state == "queued" or run.is_locked():
            raise ExplainedError(
                f"{run.id} cannot be thrown away: it is {status.state}.",
                "Stop it first, or take it off the queue.",
            )

    def _job_of(self, run: RunDir) -> Job | None:
        """The job that waits to train the run, or trains it."""
        jobs = [entry.job for entry in self.queue.list_jobs(UNDONE) if entry.job.kind in TRAINING]
        return next((job for job in jobs if run.path.absolute() in job.runs), None)

    def _processes(self, run: RunDir, job: Job | None) -> list[Identity]:
        """The run's process, as the worker and the run itself wrote it down."""
        started = [event for event in read_events(run.events_file)[0] if isinstance(event, Started)][-1:]
        found = [Identity(event.pid, event.create_time, event.host) for event in started]
        if job is not None and job.claim is not None and job.claim.pid is not None:
            found.append(Identity(job.claim.pid, job.claim.create_time, job.claim.host))
        return found


def runs_in(root: Path) -> list[RunDir]:
    """The runs in a folder, the newest last; within a minute, which is all that ids tell, by their settings' files."""
    folders = [path for path in root.iterdir() if path.is_dir()] if root.exists() else []
    runs = [RunDir(path) for path in folders if path.name != TRASH and not path.name.startswith(UNFINISHED)]
    return sorted((run for run in runs if run.exists()), key=_age)


def pick(name: str, root: Path) -> RunDir:
    """The run of that id, "last" for the newest, or the only one whose id begins with it, else has it as a part.

    Raises NoSuchRunError, with the nearest ids.
    """
    runs = runs_in(root)
    if not runs:
        raise NoSuchRunError(
            f"There is no run {name!r}: {root} holds none.",
            "--home or DORA_STUDIO_HOME names another place to look in.",
        )
    if name == "last" and all(run.id != name for run in runs):
        return runs[-1]
    ways: tuple[Callable[[str], bool], ...] = (
        lambda run_id: run_id == name,
        lambda run_id: run_id.startswith(name),
        lambda run_id: name in run_id,
    )
    fitting = next((found for fits in ways if (found := [run for run in runs if fits(run.id)])), [])
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        newest = ", ".join(run.id for run in reversed(fitting[-NEAREST:]))
        raise NoSuchRunError(f"{name!r} fits {len(fitting)} runs, the newest {newest}.", "Give more of the id.")
    raise NoSuchRunError(
        f"There is no run {name!r} in {root}. Nearest: {', '.join(_nearest(name, runs))}.",
        "Give an id, a part that no other has, a folder, or `last`; `dora-studio runs list` shows all.",
    )


def _age(run: RunDir) -> tuple[str, int, str]:
    try:
        written = run.config_file.stat().st_mtime_ns
    except FileNotFoundError:  # deleted a moment ago
        written = 0
    return run.id[:MINUTE], written, run.id


def _nearest(name: str, runs: Sequence[RunDir]) -> list[str]:
    """By the whole id, or by what lies between the time and the random end of it."""
    texts = {text: run.id for run in runs for text in (run.id, run.id[MINUTE + 1 : -5])}
    close = difflib.get_close_matches(name, texts, n=NEAREST, cutoff=0.5)
    return list(dict.fromkeys(texts[text] for text in close)) or [run.id for run in reversed(runs[-NEAREST:])]
