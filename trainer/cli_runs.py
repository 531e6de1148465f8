"""``dora-studio runs``: what the page does with runs, on the command line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.failures import ExplainedError
from trainer.follow import follow
from trainer.home import Home
from trainer.loss_table import print_losses
from trainer.run_dir import Request
from trainer.status import RunStatus
from trainer.store import Store
from trainer.terminal import HomeOption, RunArgument, told
from trainer.worker import ensure_worker

NameArgument = Annotated[str, typer.Argument(help="What it shall be called.")]

app = typer.Typer(help="List, stop, clone, rename, queue and delete runs.", no_args_is_help=True, add_completion=False)


@app.command("list")
def list_command(home: HomeOption = None) -> None:
    """All runs, the newest first."""
    table = Table("run", "state", "step", "loss", "left", "what", box=None)
    with told():
        store = Store(Home.find(home))
        for listed in store.list_runs():
            table.add_row(listed.run.id, *(Text(cell) for cell in cells(listed.status)))
        if table.row_count:
            Console().print(table)
        else:
            typer.echo(f"There are no runs in {store.home.runs} yet; `dora-studio train` makes one.")


@app.command()
def show(run: RunArgument, home: HomeOption = None) -> None:
    """One run: where it is, what to do when it is not well, and its losses by how much noise there was."""
    store = Store(Home.find(home))
    with told():
        found = store.find(run)
        status = store.status(found)
        typer.echo(
            f"{found.path}\n{status.state}, step {status.step} of {status.steps}: {status.message}\n{status.fix}"
        )
        for warning in status.warnings:
            typer.echo(f"note: {warning}")
        print_losses(found, Console())


@app.command()
def watch(run: RunArgument, home: HomeOption = None) -> None:
    """Follow a run, wherever it was started, until it ends. Ctrl-C ends the watching, not the run.

    Exits with 1 when the run failed or was killed.
    """
    store = Store(Home.find(home))
    with told():
        found = store.find(run)
        try:
            ended = follow(store, found, Console())
        except KeyboardInterrupt:
            typer.echo(f"not watched any more; `dora-studio runs stop {found.id}` would stop it")
            return
        for file in sorted(found.exports_dir.glob("*.safetensors")):
            typer.echo(file)
        if ended.state in ("failed", "interrupted"):
            raise typer.Exit(1)


@app.command()
def stop(run: RunArgument, home: HomeOption = None) -> None:
    """Save and stop; the second time: end it at once."""
    store = Store(Home.find(home))
    with told():
        typer.echo(store.stop(store.find(run)))


@app.command()
def pause(run: RunArgument, home: HomeOption = None) -> None:
    """Wait at the next step, keeping everything in memory, until `unpause`."""
    ask(run, "pause", home)
    typer.echo("It pauses after the step that it is at; `dora-studio runs unpause` lets it go on.")


@app.command()
def unpause(run: RunArgument, home: HomeOption = None) -> None:
    """Go on after `pause`."""
    with told():
        Store(Home.find(home)).find(run).clear("pause")


@app.command()
def save(run: RunArgument, home: HomeOption = None) -> None:
    """Save a checkpoint at the next step."""
    ask(run, "save", home)
    typer.echo("It saves after the step that it is at.")


@app.command()
def sample(run: RunArgument, home: HomeOption = None) -> None:
    """Draw samples at the next step."""
    ask(run, "sample", home)
    typer.echo("It draws after the step that it is at.")


@app.command()
def clone(
    run: RunArgument,
    name: NameArgument,
    settings: Annotated[list[str] | None, typer.Argument(help="key=value that shall be different.")] = None,
    home: HomeOption = None,
) -> None:
    """Make a new run with the same settings, or some that differ; print its folder."""
    store = Store(Home.find(home))
    with told():
        typer.echo(store.clone(store.find(run), name, settings or ()).path)


@app.command()
def rename(run: RunArgument, name: NameArgument, home: HomeOption = None) -> None:
    """Call a run something else. Its folder stays."""
    store = Store(Home.find(home))
    with told():
        store.rename(store.find(run), name)


@app.command()
def requeue(run: RunArgument, home: HomeOption = None) -> None:
    """Train it in the background: begin, or go on from its last checkpoint."""
    store = Store(Home.find(home))
    with told():
        typer.echo(f"Queued as {store.requeue(store.find(run)).id}.")
        ensure_worker(store.home)


@app.command()
def delete(run: RunArgument, home: HomeOption = None) -> None:
    """Move a run to the trash folder."""
    store = Store(Home.find(home))
    with told():
        typer.echo(f"Moved to {store.delete(store.find(run))}; `dora-studio runs restore` brings it back.")


@app.command()
def restore(run: RunArgument, home: HomeOption = None) -> None:
    """Bring a run back from the trash."""
    with told():
        typer.echo(Store(Home.find(home)).restore(run).path)


@app.command("empty-trash")
def empty_trash(home: HomeOption = None) -> None:
    """Delete for good what is in the trash."""
    with told():
        typer.echo(f"{Store(Home.find(home)).empty_trash()} runs deleted.")


def ask(name: str, request: Request, home: Path | None) -> None:
    store = Store(Home.find(home))
    with told():
        run = store.find(name)
        status = store.status(run)
        if not status.is_live:
            raise ExplainedError(
                f"{run.id} is not running: it is {status.state}.",
                f"`dora-studio runs requeue {run.id}` starts it in the background.",
            )
        run.request(request)


def cells(status: RunStatus) -> tuple[str, str, str, str, str]:
    """The columns of a run's status: state, step, loss, time left, message."""
    step = f"{status.step}/{status.steps}" if status.steps else ""
    loss = "" if status.loss is None else f"{status.loss:.4f}"
    left = "" if status.seconds_left is None else str(timedelta(seconds=round(status.seconds_left)))
    return status.state, step, loss, left, " ".join((status.message, status.fix)).strip()
