"""``dora-studio compare``: base and runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli_train import HomeOption
from trainer.home import Home
from trainer.store import Store
from trainer.terminal import told

app = typer.Typer(help="Draw base and runs side by side, from the exported files.", add_completion=False)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Finished runs: folders, ids, or parts of ids.")],
    strength: Annotated[list[float] | None, typer.Option(help="May be given several times.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    home: HomeOption = None,
) -> None:
    """Draw every prompt with the base model and with every run at every strength."""
    with told():
        from trainer.quiet import quiet_libraries  # noqa: PLC0415 - as the next

        quiet_libraries()
        from trainer.compare import compare_runs  # noqa: PLC0415 - loads torch, which --help does not need

        store = Store(Home.find(home))
        typer.echo(compare_runs([store.find(run) for run in runs], strength or (1.0,), prompt or ()))
