"""The runs of a home: found, stopped, cloned, renamed, queued again, thrown away and brought back."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from dora_core.atomic import atomic_write
from trainer.config import RunConfig
from trainer.config_io import dump_config, parse_config, read_toml
from trainer.events import Started, read_events
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.processes import Identity, kill_tree
from trainer.queue import TRAINING, UNDONE, Job, Queue
from trainer.run_dir import UNFINISHED, RunDir
from trainer.status import RunStatus, read_status

TRASH = ".trash"


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
        runs = [run for run in _runs_in(self.home.runs) if run.exists()]
        return [Listed(run, self.status(run)) for run in reversed(runs)]

    def find(self, name: str) -> RunDir:
        """The run of that folder, of that id, or the only one whose id has it as a part. Raises ExplainedError."""
        if (path := Path(name)).is_dir() and RunDir(path.absolute()).exists():
            return RunDir(path.absolute())
        runs = [run for run in _runs_in(self.home.runs) if run.exists()]
        exact = [run for run in runs if run.id == name]
        fitting = exact or [run for run in runs if name in run.id]
        if len(fitting) != 1:
            found = ", ".join(run.id for run in fitting) if fitting else "none"
            raise ExplainedError(
                f"{name!r} should name one run; found: {found}.", "`dora-studio runs list` shows them."
            )
        return fitting[0]

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
            return "It saves after the step that it is at, and stops. Stop again to end it at once."
        if status.state == "queued":
            return "It stops as soon as its turn comes."
        run.request("kill")
        killed = [kill_tree(process) for process in self._processes(run, job)]
        return "Ended at once." if any(killed) else "It had ended already."

    def clone(self, run: RunDir, name: str) -> RunDir:
        """A new run with the same settings and another name, not started."""
        return self.create(self.config(run).model_copy(update={"name": name}))

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

    def restore(self, run_id: str) -> RunDir:
        return RunDir((self.trash / run_id).rename(self.home.runs / run_id))

    def empty_trash(self) -> int:
        """Delete for good what is in the trash; how many runs there were."""
        runs = _runs_in(self.trash)
        for run in runs:
            shutil.rmtree(run.path)
        return len(runs)

    def config(self, run: RunDir) -> RunConfig:
        return parse_config(read_toml(run.config_file))

    def _refuse_if_busy(self, run: RunDir) -> None:
        status = self.status(run)
        if status.is_live or status.state == "queued":
            raise ExplainedError(f"{run.id} is {status.state}.", "Stop it first, or take it off the queue.")

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


def _runs_in(root: Path) -> list[RunDir]:
    if not root.exists():
        return []
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return [RunDir(path) for path in folders if path.name != TRASH and not path.name.startswith(UNFINISHED)]
