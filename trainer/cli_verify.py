"""``dora-studio verify``: what every program makes of a file, and a ComfyUI at hand in person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.terminal import told

app = typer.Typer(help="Check what every program makes of an adapter file.", add_completion=False)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An adapter file of any program.")],
    base: Annotated[str | None, typer.Option(help="The base model. Default: the one that the file names.")] = None,
    comfyui: Annotated[Path | None, typer.Option(help="A ComfyUI folder: its own code is asked as well.")] = None,
    python: Annotated[Path | None, typer.Option(help="The Python that this ComfyUI runs with.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute the check: cpu, cuda, cuda:1.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """Compute the adapted weights as each program does, and compare them with what the file means.

    Exits with 1 if the program that the file is for renders something else.
    """
    from trainer.adapter_commands import ask, check  # noqa: PLC0415 - loads torch, which --help does not need

    console = Console()
    with told():
        checked = check(file, base, device, console)
        if json is not None:
            checked.write_json(json)
        agrees = comfyui is None or ask(comfyui, checked, python, console)
    raise typer.Exit(0 if checked.report.passed and agrees else 1)
