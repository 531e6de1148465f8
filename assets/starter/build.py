#!/usr/bin/env python3
"""Make the starter model: ``python assets/starter/build.py all``, or one stage by its name.

Every stage picks up where it was stopped and does nothing when it is finished. Needs the extra ``starter``.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from recipe.files import Failure  # noqa: E402 - the folder is not an installed package
from recipe.profile import PROFILES, SEED, Workshop  # noqa: E402

STAGES = {
    "fetch": "data.fetch",
    "render": "data.render",
    "tokenizer": "captions.train_tokenizer",
    "vae": "vae.train_vae",
    "unet": "unet.train_unet",
    "pack": "pack.pack",
    "evaluate": "evaluate.evaluate",
    "samples": "pack.write_samples",
    "limit": "limit.limit",
}


def main(
    stage: Annotated[str, typer.Argument(help="all, or one of: " + ", ".join(STAGES))],
    profile: Annotated[str, typer.Option(help="the sizes: " + " or ".join(PROFILES))] = "cpu",
    work: Annotated[Path, typer.Option(help="folder of downloads and checkpoints")] = HERE / "work",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    seed: Annotated[int, typer.Option(help="of data, initial weights and noise")] = SEED,
) -> None:
    """Run one stage, or all of them in order."""
    if profile not in PROFILES or stage not in ("all", *STAGES):
        raise typer.BadParameter(f"stage {stage!r} or profile {profile!r}: see --help for the names.")
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # else they warn of what nothing here uses
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    shop = Workshop(PROFILES[profile], work / profile, HERE.parent, device, seed)
    for name in STAGES if stage == "all" else (stage,):
        module, function = STAGES[name].split(".")
        try:
            getattr(import_module(f"recipe.{module}"), function)(shop)
        except Failure as failure:
            typer.echo(f"{name}: {failure}", err=True)
            raise typer.Exit(1) from failure
        typer.echo(f"{name}: done")


if __name__ == "__main__":
    typer.run(main)
