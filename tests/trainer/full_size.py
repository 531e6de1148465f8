"""A Stable Diffusion 1.5 with random weights as one file: its size and names, none of its knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dora_core.families import FAMILIES
from tests.trainer.checkpoint_file import named_as_original
from trainer.released import released_architectures, released_vae


def write_random_sd15(file: Path) -> None:
    """About 2 GiB, in float16. Spread such that numbers stay numbers: 1 / sqrt(inputs), norms as they begin."""
    told = {name: row["config"] for name, row in released_architectures().items()}
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**told["unet-sd1"])
        vae: Any = AutoencoderKL(**released_vae(FAMILIES["sd1"]))
        models: dict[str, nn.Module] = {
            "unet": unet,
            "vae": vae,
            "text_encoder": CLIPTextModel(CLIPTextConfig(**told["clip-l"])),
        }
    random = torch.Generator().manual_seed(7)
    weights = {
        part: {key: _drawn(key, value, random) for key, value in model.state_dict().items()}
        for part, model in models.items()
    }
    save_file(named_as_original("sd1", weights), file)


def _drawn(key: str, like: Tensor, random: torch.Generator) -> Tensor:
    if like.dim() == 1:
        return torch.full(like.shape, float("norm" in key and key.endswith("weight")), dtype=torch.float16)
    drawn = torch.randn(like.shape, generator=random, dtype=torch.float32)
    return drawn.mul_(like[0].numel() ** -0.5).half()
