"""``dora-studio doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.doctor import examine
from trainer.home import Home

STYLES = {"good": "green", "note": "yellow", "bad": "red"}

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    home: Annotated[Path | None, typer.Option(help="Folder of the runs and the queue.")] = None,
) -> None:
    """Look at Python, torch, card, driver, memory, disk and folders; say what is wrong and how to put it right.

    Exits with 1 when something keeps training from working.
    """
    checks = examine(Home.find(home))
    table = Table(box=None, show_header=False)
    for check in checks:
        table.add_row(
            Text(check.verdict, STYLES[check.verdict]), check.name, Text(f"{check.value}\n{check.fix}".strip())
        )
    Console().print(table)
    raise typer.Exit(int(any(check.verdict == "bad" for check in checks)))
