"""``dora-studio presets``: the settings that ship, every single setting, and a config to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.config_errors import SETTINGS, ConfigError
from trainer.config_io import load_config, save_config
from trainer.home import Home
from trainer.presets import list_presets, preset_folders

app = typer.Typer(add_completion=False, no_args_is_help=False)


@app.callback(invoke_without_command=True)
def presets(context: typer.Context) -> None:
    """List the presets: `plan`, `train` and a config's first line, preset = "NAME", take their names."""
    if context.invoked_subcommand is not None:
        return
    found = list_presets(preset_folders(Home.find()))
    table = Table(box=None)
    for column in ("name", "for", "layers", "rank"):
        table.add_column(column)
    for preset in found.presets:
        adapter = preset.values.get("adapter", {})
        shown = (preset.name, preset.head.title, adapter.get("targets", ""), str(adapter.get("rank", "")))
        table.add_row(*(Text(cell) for cell in shown))
    console = Console()
    console.print(table)
    for broken in found.broken:
        console.print(Text.assemble(("skipped  ", "yellow"), broken.reason))


@app.command()
def settings() -> None:
    """List every setting that a config or key=value can have: what to write, the default, the meaning."""
    typer.echo(settings_table())


@app.command()
def write(
    name: Annotated[str, typer.Argument(help="The preset, or a TOML file.")],
    file: Annotated[Path, typer.Argument(help="Where the config goes.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value.", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Write a preset with your settings as a config of its own, every setting in it."""
    if file.exists():
        typer.echo(f"{file} is there already: give another name or remove it", err=True)
        raise typer.Exit(1)
    try:
        save_config(load_config(name, overrides or ()), file)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{file} is written: dora-studio plan {file}")


def settings_table() -> str:
    """The settings as a Markdown table: also the one in the README."""
    rows = ["| setting | write | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{s.key}` | {s.expectation} | {s.default_text} | {s.field.description} |" for s in SETTINGS.values()]
    return "\n".join(rows)
