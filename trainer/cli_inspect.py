"""``dora-studio inspect``: what a file is, and where it renders as trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.inspection import Description, describe
from trainer.terminal import told

app = typer.Typer(help="Say what a file is, and where it renders as trained.", add_completion=False)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An adapter file of any program, a checkpoint, or a model's folder.")],
) -> None:
    """Read the header alone: kind, norm axis, family, ranks, layers, and which programs render the file rightly."""
    with told():
        for line in _rendered(describe(file)):
            Console().print(line)


def _rendered(description: Description) -> list[Text | Table]:
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, value in description.facts.items():
        facts.add_row(Text(label, "dim"), Text(value))
    lines: list[Text | Table] = [Text(description.title, "bold"), facts]
    if (where := description.rendering) is not None:
        programs = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for program in where.exact:
            programs.add_row(Text("as trained", "green"), Text(program))
        for program, how in where.wrong.items():
            programs.add_row(Text("not so", "red"), Text(f"{program}: {how}"))
        lines += [Text(f"\nRenders as trained {where.condition}:"), programs]
    return [*lines, *(Text(f"Note: {note}", "yellow") for note in description.notes)]
