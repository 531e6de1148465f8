"""``dora-studio plan``: what a run would do and need, before anything is loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.config_data import MoreImagesConfig
from trainer.config_errors import ConfigError
from trainer.config_io import load_config
from trainer.data.buckets import Bucket
from trainer.data.report import DatasetReport
from trainer.data.wording import told_of_texts
from trainer.home import Home
from trainer.plan import Plan, plan
from trainer.speed import Expectation
from trainer.vram import MemoryPart

app = typer.Typer(add_completion=False)
GIB = 2**30


@app.command(name="plan")
def show_plan(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a preset.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value.", metavar="[KEY=VALUE]...")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the runs and the queue.")] = None,
) -> None:
    """Look at a config's pictures, captions and base model; tell steps, memory, minutes and disk, and every problem.

    Loads no model. Exits with 1 when the run could not start.
    """
    try:
        place = Home.find(home)
        found = plan(load_config(config, overrides or (), place), place)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    print_plan(found, Console())
    raise typer.Exit(0 if found.is_ready else 1)


def print_plan(found: Plan, console: Console) -> None:
    """Text from files and configs is printed as it is, whatever marks are in it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for title, text in summary(found):
        table.add_row(Text(title, "bold"), Text(text))
    console.print(table)
    for notice in found.notices:
        console.print(Text.assemble(("note  ", "yellow"), notice))
    for problem in found.problems:
        console.print(Text.assemble(("problem  ", "red"), str(problem)))


def summary(found: Plan) -> list[tuple[str, str]]:
    """Titles and texts of the plan, what cannot be told left out."""
    rows = [
        ("pictures", "\n".join(_pictures(report, len(found.datasets) > 1) for report in found.datasets)),
        ("sizes", ", ".join(f"{count} at {bucket}" for bucket, count in _sizes(found).most_common())),
        ("captions", _captions(found)),
        ("steps", _steps(found)),
        ("trained", _trained(found)),
        ("memory", _memory(found)),
        ("time", _time(found)),
        ("disk", _disk(found)),
    ]
    return [(title, text) for title, text in rows if text]


def _pictures(report: DatasetReport, is_one_of_several: bool) -> str:
    pictures = report.images.pictures
    name = f"{report.images.folder.name}: " if is_one_of_several else ""
    if not pictures:
        return f"{name}none"
    by_area = sorted(pictures, key=lambda picture: picture.width * picture.height)
    small, large = by_area[0], by_area[-1]
    sizes = f"{small.width}x{small.height} to {large.width}x{large.height} px"
    return f"{name}{len(pictures)}, {sizes}; {len(report.images.left_out)} left out{_as_set(report)}"


def _as_set(report: DatasetReport) -> str:
    """What is special about it: '; 3 repeats, weight 0.5, prior prediction, mirrored too'."""
    one = report.settings
    facts = {
        f"{one.repeats} repeats": one.repeats > 1,
        f"weight {one.weight:g}": one.weight != 1,
        "prior prediction": isinstance(one, MoreImagesConfig) and one.role == "prior-prediction",
        "mirrored too": one.flip,
        "cut at five places": one.crop_jitter,
        f"{len(report.masks.by_picture) if report.masks else 0} masks": report.masks is not None,
    }
    return "".join(f", {fact}" for fact, is_so in facts.items() if is_so).replace(", ", "; ", 1)


def _sizes(found: Plan) -> Counter[Bucket]:
    return Counter(placement.bucket for report in found.datasets for placement in report.placements)


def _captions(found: Plan) -> str:
    captions = [report.captions for report in found.datasets]
    counts = sum(one.found for one in captions), sum(len(one.missing) for one in captions)
    wordings = [texts for report in found.datasets for texts in report.wordings]
    texts = told_of_texts(wordings, found.config.adapter.text_encoder)
    return f"{counts[0]} found, {counts[1]} missing; {texts}"


def _steps(found: Plan) -> str:
    train = found.config.train
    each = f"{train.steps} of {found.config.pictures_per_step} pictures = {found.passes:.1f} passes over all of them"
    return f"{each}, once as LoRA and once as DoRA" if train.twin else each


def _trained(found: Plan) -> str:
    adapter = found.config.adapter
    scale = (adapter.alpha or adapter.rank) / adapter.rank
    parts = ", ".join(f"{count:,} parameters in {part}" for part, count in found.trainable.items())
    kind = "lora, and dora, which these are of" if found.config.train.twin else adapter.kind
    size = "" if kind == "full" else f", rank {adapter.rank}, alpha/rank {scale:g}"
    return f"{parts}; {kind}{size}" if parts else ""


def _memory(found: Plan) -> str:
    if found.memory is None:
        return ""
    have = f"{found.machine.memory_bytes / GIB:.1f} GiB of {found.machine.name}"
    lines = [f"about {found.memory.peak_bytes / GIB:.2f} GiB at most, of {have}"]
    lines += [_part(part) for part in found.memory.step]
    drawing = [part for part in found.memory.sampling if part not in found.memory.step]
    return "\n".join([*lines, *(f"{_part(part)}, to draw, in place of activations" for part in drawing)])


def _part(part: MemoryPart) -> str:
    return f"{part.size_bytes / GIB:8.3f} GiB  {part.name}{'' if part.is_counted else ' (estimate)'}"


def _time(found: Plan) -> str:
    if found.seconds is None:
        return "not measured on this machine yet: the first run with this base model tells"
    each = " and ".join(_speed(speed) for speed in found.speeds)
    return f"about {found.seconds / 60:.1f} minutes of steps, {each}"


def _speed(speed: Expectation) -> str:
    basis = "measured" if speed.is_same else f"scaled from a run at {speed.measured.resolution_px} px"
    return f"{speed.seconds_per_step:.2f} s each ({basis})"


def _disk(found: Plan) -> str:
    parts = ", ".join(f"{part.name} {part.size_bytes / 2**20:,.0f} MiB" for part in found.disk)
    return f"up to {found.disk_bytes / GIB:.2f} GiB of {found.free_disk_bytes / GIB:.1f} GiB free: {parts}"
