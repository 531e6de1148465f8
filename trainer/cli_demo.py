"""``dora-studio demo``: everything once, with what comes along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from trainer.cli_train import HomeOption
from trainer.home import Home
from trainer.terminal import told

if TYPE_CHECKING:  # loads torch
    from trainer.demo import DemoResult, Twin

app = typer.Typer(help="Train, compare and export with the model that comes along.", add_completion=False)


@app.command()
def demo(
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.steps=50.")] = None,
    home: HomeOption = None,
) -> None:
    """Teach the starter model a 3D style, as LoRA and as DoRA, and draw twelve things that it was not shown in it."""
    with told():
        from trainer.quiet import quiet_libraries  # noqa: PLC0415 - as the next

        quiet_libraries()
        from trainer.demo import run_demo  # noqa: PLC0415 - loads torch, which --help does not need

        result = run_demo(Home.find(home), settings or ())
    show(result)


def show(result: DemoResult) -> None:
    console = Console()
    console.print("Share of the held-out things that are nearer to their true 3D picture than to their flat one:")
    table = Table("", "16 x 16 pixels", "latents", "seconds per step", "file")
    costs = ["-", "-"], *([_seconds(twin), f"{twin.file.stat().st_size / 2**20:.1f} MiB"] for twin in result.twins)
    for score, cost in zip(result.scores, costs, strict=True):
        table.add_row(score.title, f"{score.coarse:.0%}", f"{score.latents:.0%}", *cost)
    console.print(table)
    for twin in result.twins:
        console.print(f"{twin.file}\n  {twin.headline}", soft_wrap=True)
    console.print(f"grid: {result.grid}\ndone in {result.seconds:.0f} s", soft_wrap=True)


def _seconds(twin: Twin) -> str:
    seconds = twin.figures.seconds_per_step
    return "-" if seconds is None else f"{seconds:.2f}"
