"""What the commands share: arguments, and how one says that it failed: sentence, fix and exit code, not a trace."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from trainer.failures import UNKNOWN, classify

HomeOption = Annotated[Path | None, typer.Option(help="Folder of the runs and the queue.")]
RunArgument = Annotated[
    str, typer.Argument(help="The run's folder, its id, a part of the id that no other has, or last: the newest.")
]


@contextmanager
def told() -> Generator[None, None, None]:
    """Turn an exception of the block into two lines and exit code 1; what nobody expected keeps its trace."""
    try:
        yield
    except (typer.Exit, typer.Abort, TyperException):
        raise
    except Exception as error:  # noqa: BLE001 - the last place that an error of a command passes
        failure = classify(error)
        if failure.category == UNKNOWN.category:
            print(failure.trace, file=sys.stderr)
        typer.secho(failure.sentence, fg="red", err=True)
        typer.echo(failure.fix, err=True)
        raise typer.Exit(1) from None
