"""``dora-studio sample``: draw with a run's newest checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from trainer.home import Home
from trainer.store import Store
from trainer.terminal import HomeOption, RunArgument, told

app = typer.Typer(help="Draw samples with a run's newest checkpoint.", add_completion=False)


@app.command()
def sample(
    run: RunArgument,
    settings: Annotated[list[str] | None, typer.Argument(help='key=value, such as sample.prompts="a fox".')] = None,
    home: HomeOption = None,
) -> None:
    """Draw samples, with the run's own settings or others."""
    with told():
        from trainer.quiet import quiet_libraries  # noqa: PLC0415 - as the next

        quiet_libraries()
        from trainer.resample import draw_run  # noqa: PLC0415 - loads torch, which --help does not need

        typer.echo(f"{draw_run(Store(Home.find(home)).find(run), settings or ())}")
