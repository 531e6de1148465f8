"""``dora-studio export``: a proven file of an adapter, for the program that shall use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.export_targets import TargetName
from trainer.home import Home
from trainer.store import Store
from trainer.terminal import HomeOption, told

app = typer.Typer(help="Write a proven file of an adapter.", add_completion=False)


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="A run, of which the newest checkpoint is taken, or an adapter file.")],
    target: Annotated[
        TargetName | None,
        typer.Option(
            help="What the file is for; merged: a whole model. Default: comfyui; lycoris for the output axis."
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base model. Default: what the run or the file names.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; for merged, the folder.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute the check: cpu, cuda, cuda:1.")] = None,
    home: HomeOption = None,
) -> None:
    """Write the file, read it back, compare it with the adapter as every program computes it; keep it if it passes."""
    from trainer.adapter_commands import publish, publish_merged  # noqa: PLC0415 - loads torch, --help need not
    from trainer.adapter_source import open_source  # noqa: PLC0415 - likewise

    with told():
        opened = open_source(source, base, Store(Home.find(home)))
        if target == "merged":
            publish_merged(opened, out, Console())
        else:
            publish(opened, target, out, device, Console())
