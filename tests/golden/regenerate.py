"""Writes what the golden tests compare with: the package's module lists, and each family's file names.

    python -m tests.golden.regenerate

The module lists come from the architectures of diffusers and transformers, built on the meta device. Run it only when
an architecture or a naming rule is meant to change, and read the difference before committing it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from dora_core.families import FAMILIES, shipped_modules
from dora_core.files import modules_of
from dora_core.header import Shape
from dora_core.keymap import kohya_map

GOLDEN = Path(__file__).parent
DATA = GOLDEN.parents[1] / "dora_core" / "data"


def architectures() -> dict[str, dict[str, Any]]:
    return json.loads((DATA / "architectures.json").read_text())


def build(architecture: str, device: str = "meta") -> nn.Module:
    row = architectures()[architecture]
    with torch.device(device):
        if row["class"] == "UNet2DConditionModel":
            return diffusers.UNet2DConditionModel(**row["config"])
        return getattr(transformers, row["class"])(transformers.CLIPTextConfig(**row["config"]))


def listed_modules(architecture: str) -> dict[str, Shape]:
    """Module path -> weight shape, as `dora_core.families.module_list` has them."""
    component = "unet" if architecture.startswith("unet") else "text_encoder"
    modules = modules_of("sd1", {component: build(architecture)})
    return {name.removeprefix(f"{component}."): shape for name, shape in modules.shapes.items()}


def as_text(modules: dict[str, Shape]) -> str:
    return "".join(f"{path} {'x'.join(map(str, shape))}\n" for path, shape in modules.items())


def main() -> None:
    for architecture in architectures():
        (DATA / f"{architecture}.txt").write_text(as_text(listed_modules(architecture)))
    for family in FAMILIES:
        names = kohya_map(shipped_modules(family)).to_file
        (GOLDEN / f"{family}-kohya.txt").write_text("".join(f"{name}\n" for name in sorted(names.values())))


if __name__ == "__main__":
    main()
