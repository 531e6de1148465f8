"""``dora-studio compare``: base model and adapters side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from trainer.compare.manifest import PAGE, read_manifest
from trainer.compare.request import parse_request
from trainer.home import Home
from trainer.store import Store
from trainer.terminal import HomeOption, told

app = typer.Typer(help="Draw base model and adapters side by side, from the exported files.", add_completion=False)
SEVERAL = "May be given several times"


@app.command()
def compare(
    sources: Annotated[
        list[str], typer.Argument(help="Finished runs (folder, id, a part of it, last), RUN@STEP, adapter files.")
    ],
    prompt: Annotated[list[str] | None, typer.Option(help=f"{SEVERAL}. Default: the first run's samples.")] = None,
    strength: Annotated[list[float] | None, typer.Option(help=f"{SEVERAL}; 1 is as trained.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help=f"{SEVERAL}. Default: one of its own per prompt.")] = None,
    steps: Annotated[list[int] | None, typer.Option(help=f"Sampler steps. {SEVERAL}.")] = None,
    guidance: Annotated[list[float] | None, typer.Option(help=f"{SEVERAL}.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="Width and height in pixels.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model. Default: what the first run or file names.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: one in the first run's grids.")] = None,
    home: HomeOption = None,
) -> None:
    """Draw every prompt with the base model and every adapter at every strength, as the file's own program does.

    The folder gets index.html, grid.png, layers.png, every picture alone, and all figures in manifest.json.
    """
    asked = {
        "sources": sources,
        "prompts": prompt,
        "strengths": strength,
        "seeds": seed,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "size_px": size,
        "base": base,
    }
    with told():
        request = parse_request({name: value for name, value in asked.items() if value})
        from trainer.quiet import quiet_libraries  # noqa: PLC0415 - as the next

        quiet_libraries()
        from trainer.compare import comparison  # noqa: PLC0415 - loads torch, which --help does not need

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("drawing", total=None)
            folder = comparison.compare(
                request, Store(Home.find(home)), out, lambda done, total: bar.update(task, completed=done, total=total)
            )
        for note in read_manifest(folder).notes:
            typer.echo(note)
        typer.echo(folder / PAGE)
