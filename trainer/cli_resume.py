"""``dora-studio resume``: go on with a run from its newest checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.cli_train import HomeOption, train_here
from trainer.home import Home
from trainer.store import Store
from trainer.terminal import told

app = typer.Typer(help="Go on with a run from its newest checkpoint.", add_completion=False)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="The run's folder, its id, or a part of the id that no other has.")],
    home: HomeOption = None,
) -> None:
    """Go on with a run exactly where its newest checkpoint is."""
    with told():
        train_here(Store(Home.find(home)).find(run))
