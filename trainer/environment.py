"""What a run was made with, in its environment.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata

import torch

from dora_core.atomic import atomic_write
from trainer.compute import Compute
from trainer.run_dir import RunDir
from trainer.team import Team

VERSIONS_OF = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow")


def write_environment(run: RunDir, compute: Compute, team: Team, base: Mapping[str, str]) -> None:
    """What the run was made with, for whoever wants to do it again; `base`: what is known of the base model by then."""
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(compute.device),
        "precision": compute.precision,
        "threads": torch.get_num_threads(),
        "processes": team.size,
    }
    versions = {name: metadata.version(name) for name in VERSIONS_OF}
    with atomic_write(run.environment_file) as file:
        file.write(json.dumps({**facts, **versions, **base}, indent=1).encode())
