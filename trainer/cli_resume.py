"""``dora-studio resume``: go on with a run from its newest checkpoint."""

from __future__ import annotations

import typer

from trainer.cli_train import NoWaitOption, as_one, train_here
from trainer.home import Home
from trainer.store import Store
from trainer.terminal import HomeOption, RunArgument, told

app = typer.Typer(help="Go on with a run from its newest checkpoint.", add_completion=False)


@app.command()
def resume(run: RunArgument, no_wait: NoWaitOption = False, home: HomeOption = None) -> None:
    """Go on with a run exactly where its newest checkpoint is."""
    with told(), as_one():
        train_here(Store(Home.find(home)).find(run), wait_for_device=not no_wait)
