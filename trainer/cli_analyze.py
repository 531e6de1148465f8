"""``dora-studio analyze``: how far an adapter, or a fine-tuned model, has moved its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dora_core.spec import NormAxis
from trainer.home import Home
from trainer.store import Store
from trainer.terminal import HomeOption, told

app = typer.Typer(help="Measure how far an adapter moves its base model.", add_completion=False)


@app.command()
def analyze(
    source: Annotated[str, typer.Argument(help="A run, an adapter file, or a fine-tuned model.")],
    base: Annotated[str | None, typer.Option(help="The base model. Default: what the run or the file names.")] = None,
    axis: Annotated[
        NormAxis | None, typer.Option(help="The vectors to compare: columns (input) or rows (output).")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file, too.")] = None,
    home: HomeOption = None,
) -> None:
    """Change of magnitude and of direction by layer, as section 3 of the DoRA paper has them, and the whole of it."""
    from trainer.adapter_commands import measure  # noqa: PLC0415 - loads torch, which --help does not need

    with told():
        measure(source, base, axis, Store(Home.find(home)), json, Console())
