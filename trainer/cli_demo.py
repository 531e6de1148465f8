"""``dora-studio demo``: everything once, with what comes along."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from trainer.cli_train import HomeOption
from trainer.home import Home
from trainer.terminal import told

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
    console = Console()
    table = Table(title="Held-out things nearer to their true 3D picture than to their flat one")
    for name in ("", "16 x 16 pixels", "latents"):
        table.add_column(name)
    for score in result.scores:
        table.add_row(score.title, f"{score.coarse:.0%}", f"{score.latents:.0%}")
    console.print(table)
    for run, export in zip(result.runs, result.exports, strict=True):
        console.print(f"{run.path / export.file}\n  {export.headline}", soft_wrap=True)
    console.print(f"grid: {result.grid}\ndone in {result.seconds:.0f} s", soft_wrap=True)
