"""The command line. A command's module is imported when that command runs: help stays quick and free of torch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from io import TextIOWrapper

import typer

from dora_core.version import __version__


@dataclass(frozen=True)
class Command:
    """One row of the command line. `module` has a typer application named `app`, which parses the rest of the line."""

    name: str
    module: str
    help: str


COMMANDS: tuple[Command, ...] = (
    Command("ui", "app.cli", "Open the page in the browser."),  # by name alone: nothing here imports the page
    Command("train", "trainer.cli_train", "Train a run, from a preset or a TOML file, and export the adapter."),
    Command("resume", "trainer.cli_resume", "Go on with a run exactly where its newest checkpoint is."),
    Command("sample", "trainer.cli_sample", "Draw samples with a run's newest checkpoint."),
    Command("plan", "trainer.cli_plan", "Tell what a run would do, need and stumble over, before anything is loaded."),
    Command("presets", "trainer.cli_presets", "List presets and settings, write a config to start from."),
    Command("export", "trainer.cli_export", "Write a proven file of an adapter, for the program that shall use it."),
    Command("compare", "trainer.cli_compare", "Draw base and runs side by side, from the exported files."),
    Command("demo", "trainer.cli_demo", "Train, compare and export with the model that comes along."),
    Command("verify", "trainer.cli_verify", "Check what every program makes of an adapter file."),
    Command("inspect", "trainer.cli_inspect", "Say what a file is, and where it renders as trained."),
    Command("analyze", "trainer.cli_analyze", "Measure how far an adapter moves its base model."),
    Command("runs", "trainer.cli_runs", "List, stop, clone, rename, queue and delete runs."),
    Command("queue", "trainer.cli_queue", "List the jobs, take one off, start the worker."),
    Command("worker", "trainer.worker", "Run the jobs of the queue until there are none left."),
    Command("doctor", "trainer.cli_doctor", "Look for what keeps training from working, and say how to fix it."),
    Command("bench", "trainer.cli_bench", "Measure LoRA and DoRA layers against PEFT's and LyCORIS'."),
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of files may hold what a console has no character for
            stream.reconfigure(errors="replace")
    for command in COMMANDS:
        # Everything after the name goes on as it is, --help included.
        passed_on = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
        register = app.command(command.name, help=command.help, add_help_option=False, context_settings=passed_on)
        register(run_module(command.module))
    app(prog_name="dora-studio")


def run_module(module: str) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        import_module(module).app(context.args, prog_name=context.command_path)

    return run


@app.callback()
def dora_studio() -> None:
    """Train LoRA and DoRA adapters for Stable Diffusion, compare them, and export files that are proven to work."""


@app.command()
def version() -> None:
    """Print the versions that a report of a fault should name."""
    typer.echo(f"dora-studio {__version__}, torch {metadata.version('torch')}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
