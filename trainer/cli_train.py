"""``dora-studio train``: from settings over the plan to an exported adapter."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli_plan import print_plan
from trainer.config_io import load_config
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.plan import plan
from trainer.queue import Queue
from trainer.run_dir import RunDir
from trainer.terminal import told
from trainer.twins import create_runs
from trainer.worker import ensure_worker

HomeOption = Annotated[Path | None, typer.Option(help="Folder of the runs and the queue.")]

app = typer.Typer(help="Train a run, from a preset or a TOML file.", add_completion=False)


@app.command()
def train(
    source: Annotated[str, typer.Argument(help="A preset, a TOML file, or the folder of a run to go on with.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.steps=500.")] = None,
    twin: Annotated[bool, typer.Option("--twin", help="Train LoRA and DoRA as a pair.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Queue it and return at once.")] = False,
    home: HomeOption = None,
) -> None:
    """Train and export. Ctrl-C saves and stops; `dora-studio resume` goes on from there."""
    with told():
        place = Home.find(home)
        runs = _runs(source, [*(settings or ()), *(("train.twin=true",) if twin else ())], place)
        if background:
            Queue(place).submit("twin" if len(runs) > 1 else "train", [run.path for run in runs])
            ensure_worker(place)
            for run in runs:
                typer.echo(f"queued {run.path}")
            return
        for run in runs:
            if train_here(run) == "stopped":
                return


def train_here(run: RunDir) -> str:
    """Train in this process and say how it ended."""
    from trainer.quiet import quiet_libraries  # noqa: PLC0415 - as the next

    typer.echo(f"training {run.path}")
    if not run.is_locked():  # what a killed process was asked for is not meant for this one
        run.clear_requests()
    quiet_libraries()
    from trainer.session import run_training  # noqa: PLC0415 - loads torch, which a run in the background does not need

    with stop_on_interrupt(run):
        ending = run_training(run)
    typer.echo(f"{ending}: {run.path}" + (f"\nto go on: dora-studio resume {run.id}" if ending == "stopped" else ""))
    return ending


@contextmanager
def stop_on_interrupt(run: RunDir) -> Generator[None, None, None]:
    """The first Ctrl-C asks the run to save and stop; the second ends it at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        typer.echo("saving after this step; once more to end at once")
        run.request("stop")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _runs(source: str, settings: list[str], home: Home) -> list[RunDir]:
    run = RunDir(Path(source).absolute())
    if run.exists():
        if settings:
            raise ExplainedError(
                f"{run.id} has its settings already.",
                f"Leave out {' '.join(settings)}, or edit a copy of its run.toml.",
            )
        return [run]
    config = load_config(source, settings, home)
    planned = plan(config, home)
    print_plan(planned, Console())
    if not planned.is_ready:
        raise typer.Exit(1)
    return create_runs(config, home.runs)
