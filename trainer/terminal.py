"""How a command says that it failed: the sentence, the fix, and an exit code, instead of a trace."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

import click
import typer

from trainer.failures import UNKNOWN, classify


@contextmanager
def told() -> Generator[None, None, None]:
    """Turn an exception of the block into two lines and exit code 1; what nobody expected keeps its trace."""
    try:
        yield
    except (click.exceptions.Exit, click.ClickException):
        raise
    except Exception as error:  # noqa: BLE001 - the last place that an error of a command passes
        failure = classify(error)
        if failure.category == UNKNOWN.category:
            print(failure.trace, file=sys.stderr)
        typer.secho(failure.sentence, fg="red", err=True)
        typer.echo(failure.fix, err=True)
        raise typer.Exit(1) from None
