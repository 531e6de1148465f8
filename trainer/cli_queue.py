"""``dora-studio queue``: the jobs, waiting, running and done."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer import locks
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.queue import Entry, Queue
from trainer.terminal import HomeOption, told
from trainer.worker import ensure_worker

SHOWN_DONE = 10

app = typer.Typer(help="List the jobs, take one off, start the worker.", no_args_is_help=True, add_completion=False)


@app.command("list")
def list_command(home: HomeOption = None) -> None:
    """The jobs that wait or run, and the last that are done."""
    with told():
        queue = Queue(Home.find(home))
        entries = queue.list_jobs()
    done = [entry for entry in entries if entry.state == "done"][-SHOWN_DONE:]
    table = Table("job", "kind", "state", "since", "run", "what", box=None)
    for entry in [*done, *(entry for entry in entries if entry.state != "done")]:
        table.add_row(*(Text(cell) for cell in cells(entry)))
    Console().print(table)
    if queue.has_waiting() and not locks.is_locked(queue.home.worker_lock):
        typer.echo("No worker is running: `dora-studio queue start` starts one.")


@app.command()
def start(home: HomeOption = None) -> None:
    """Start the worker in the background, if none is running."""
    with told():
        typer.echo("Started." if ensure_worker(Home.find(home)) else "A worker is running already.")


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="Id of a waiting job, or the end of it.")], home: HomeOption = None
) -> None:
    """Take a waiting job off the queue."""
    with told():
        queue = Queue(Home.find(home))
        fitting = [entry.job for entry in queue.list_jobs() if entry.job.id.endswith(job)]
        if len(fitting) != 1:
            count = f"{len(fitting)} jobs end" if fitting else "no job ends"
            raise ExplainedError(f"The id of {count} with {job!r}.", "`dora-studio queue list` shows the ends of all.")
        if not queue.cancel(fitting[0]):
            raise ExplainedError(
                f"The job {job!r} does not wait any more: it runs or is done.", "`dora-studio runs stop` stops a run."
            )


def cells(entry: Entry) -> tuple[str, ...]:
    job = entry.job
    since = job.submitted_at if job.claim is None else job.claim.at
    said = "" if job.outcome is None else f"{job.outcome.sentence} {job.outcome.fix}".strip() or "well"
    state = "running" if entry.state == "claimed" else entry.state
    runs = "\n".join(path.name for path in job.runs)
    return job.id[-6:], job.kind, state, f"{datetime.fromtimestamp(since):%Y-%m-%d %H:%M}", runs, said
