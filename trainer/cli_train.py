"""``dora-studio train``: from settings over the plan to an exported adapter."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli_plan import print_plan
from trainer.config_io import load_config
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.launched import is_first_launched, processes_launched
from trainer.loss_table import print_losses
from trainer.plan import plan
from trainer.queue import Queue
from trainer.run_dir import RunDir
from trainer.terminal import HomeOption, told
from trainer.twins import create_runs
from trainer.worker import ensure_worker

NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Fail when another run trains on the device, instead of waiting.")
]

app = typer.Typer(help="Train a run, from a preset or a TOML file.", add_completion=False)


@app.command()
def train(
    source: Annotated[str, typer.Argument(help="A preset, a TOML file, or the folder of a run to go on with.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.steps=500.")] = None,
    twin: Annotated[bool, typer.Option("--twin", help="Train LoRA and DoRA as a pair.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Queue it and return at once.")] = False,
    no_wait: NoWaitOption = False,
    home: HomeOption = None,
) -> None:
    """Plan, train and export. Ctrl-C saves and stops; `dora-studio resume` goes on from there."""
    with told(), as_one():
        place = Home.find(home)
        if background and no_wait:
            raise ExplainedError(
                "--background and --no-wait: what is queued waits for its turn.", "Leave out one of them."
            )
        if background and processes_launched() > 1:
            raise ExplainedError(
                f"--background: {processes_launched()} processes were launched, and what is queued is one.",
                "Leave out --background.",
            )
        changes = [*(settings or ()), *(("train.twin=true",) if twin else ())]
        if background:
            queue_runs(_runs(source, changes, place), place)
        else:
            train_in_turn(_runs_of_all(lambda: _runs(source, changes, place)), wait_for_device=not no_wait)


def queue_runs(runs: Sequence[RunDir], home: Home) -> None:
    Queue(home).submit("twin" if len(runs) > 1 else "train", [run.path for run in runs])
    ensure_worker(home)
    for run in runs:
        typer.echo(f"queued {run.path}")
    typer.echo(f"to follow it: dora-studio runs watch {runs[0].id}")


def train_in_turn(runs: Sequence[RunDir], wait_for_device: bool) -> None:
    """A run, or twins one after the other; a stop of the first is one of the second, too."""
    if len(runs) > 1:
        typer.echo("twin runs, one after the other: " + ", ".join(run.id for run in runs))
    for done, run in enumerate(runs, start=1):
        if train_here(run, wait_for_device) == "stopped":
            for left in runs[done:]:
                typer.echo(f"not begun: {left.path}\nto train it: dora-studio resume {left.id}")
            return


def train_here(run: RunDir, wait_for_device: bool) -> str:
    """Train in this process and say how it ended."""
    from trainer.quiet import quiet_libraries  # noqa: PLC0415 - as the next

    typer.echo(f"training {run.path}")
    if is_first_launched() and not run.is_locked():  # what a killed process was asked for is not meant for this one
        run.clear_requests()
    quiet_libraries()
    from trainer.session import run_training  # noqa: PLC0415 - loads torch, which a run in the background does not need

    with stop_on_interrupt(run):
        ending = run_training(run, wait_for_device)
    print_losses(run, Console())
    typer.echo(f"{ending}: {run.path}" + (f"\nto go on: dora-studio resume {run.id}" if ending == "stopped" else ""))
    return ending


@contextmanager
def as_one() -> Generator[None]:
    """Where a launcher has started several processes, the first alone prints what is not an error, and all part."""
    if processes_launched() == 1:
        yield
        return
    from trainer.team import leave_team  # noqa: PLC0415 - loads torch

    with open(os.devnull, "w") as nowhere, nullcontext() if is_first_launched() else redirect_stdout(nowhere):
        try:
            yield
        finally:
            leave_team()


@contextmanager
def stop_on_interrupt(run: RunDir) -> Generator[None, None, None]:
    """The first Ctrl-C asks the run to save and stop; the second ends it at once.

    A launcher of several processes hands on each Ctrl-C besides, so there the second is as the first: it ends them all
    itself if they take half a minute.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if processes_launched() == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run.request("stop")
        typer.echo("stopping as soon as nothing is lost; once more to end at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _runs_of_all(make: Callable[[], list[RunDir]]) -> list[RunDir]:
    """The runs that are to be trained; where several processes were launched the first makes them."""
    if processes_launched() == 1:
        return make()
    from trainer.team import join_team  # noqa: PLC0415 - loads torch

    paths = tuple(str(run.path) for run in make()) if is_first_launched() else ()
    return [RunDir(Path(path)) for path in join_team().agree(paths)]


def _runs(source: str, settings: list[str], home: Home) -> list[RunDir]:
    run = RunDir(Path(source).absolute())
    if run.exists():
        if settings:
            changes = " ".join(settings)
            raise ExplainedError(
                f"{run.id} has its settings already, so it cannot take {changes}.",
                f"Leave that out, or make a new run: `dora-studio runs clone {run.id} NAME {changes}`.",
            )
        return [run]
    config = load_config(source, settings, home)
    planned = plan(config, home)
    print_plan(planned, Console())
    if not planned.is_ready:
        raise typer.Exit(1)
    return create_runs(config, home.runs)
