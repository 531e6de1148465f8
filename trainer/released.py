"""The small files that the released models came with, beside those in dora_core/data: for checkpoints without any."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from dora_core.families import Family


def released_architectures() -> dict[str, Any]:
    """Class and config of every model that can be adapted, by the name that the families' components give it."""
    return json.loads(resources.files("dora_core").joinpath("data", "architectures.json").read_text(encoding="utf-8"))


def released_vae(family: Family) -> dict[str, Any]:
    """config.json of its VAE; all three have the same layers."""
    return _table()["vae"] | _table()["families"][family.name]["vae"]


def released_scheduler(family: Family) -> dict[str, Any]:
    """scheduler_config.json; with epsilon, which a checkpoint of one that predicts v has to say otherwise."""
    return _table()["scheduler"] | _table()["families"][family.name]["scheduler"]


@cache
def _table() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("released.json").read_text(encoding="utf-8"))
