"""``dora-studio bench``: our layers beside PEFT's and LyCORIS', measured on this machine."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.terminal import told

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    what: Annotated[
        Literal["layers", "unet", "memory", "quality"],
        typer.Argument(
            help="Single layers and what bfloat16 leaves of a gain; whole training steps; bytes; what is learned."
        ),
    ],
    gpu: Annotated[bool, typer.Option("--gpu", help="On the CUDA device, in the sizes of SD1.5 and SDXL.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds on something small: to see it work.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also ours under torch.compile (not memory); minutes longer.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often each variant is timed.", show_default="25")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU. 1 is steadier on a busy machine.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write JSON to this file, and Markdown beside it.")] = None,
) -> None:
    """Measure LoRA and DoRA of ours, PEFT and LyCORIS in turns, and print Markdown tables."""
    if what != "quality":
        _check_installed()
    with told():
        from trainer.bench.report import Report, machine  # noqa: PLC0415 - loads torch, which --help does not need
        from trainer.bench.suite import BENCHES, Options  # noqa: PLC0415
        from trainer.quiet import quiet_libraries  # noqa: PLC0415

        quiet_libraries()
        options = Options.choose(is_gpu=gpu, is_quick=quick, with_compiled=compiled, rounds=rounds, threads=threads)
        report = Report(f"dora-studio {shlex.join(sys.argv[1:])}", machine(options.device), ())
        typer.echo(report.markdown())
        for table in BENCHES[what](options):
            typer.echo(f"\n{table.markdown()}")
            report = report.with_table(table)
        if out is not None:
            report.write(out)


def _check_installed() -> None:
    """The packages to compare with are an extra."""
    missing = [package for package in ("peft", "lycoris") if find_spec(package) is None]
    if missing:
        typer.echo(f"The bench compares with PEFT and LyCORIS, and there is no {' and no '.join(missing)}.", err=True)
        typer.echo("Install them: pip install 'dora-studio[bench]'", err=True)
        raise typer.Exit(1)
