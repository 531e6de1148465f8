"""Pipelines of diffusers with few, small and unequal layers, and what their modules are called here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from dora_core.families import ModelModules, neutral_name
from dora_core.files import modules_of


@dataclass(frozen=True)
class Tiny:
    family: str
    components: dict[str, nn.Module]

    @property
    def modules(self) -> ModelModules:
        return modules_of(self.family, self.components)

    def weights(self) -> dict[str, Tensor]:
        """Neutral name -> the weight as it is now, a copy."""
        return {
            neutral_name(component, path): module.weight.detach().clone()
            for component, model in self.components.items()
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }


def tiny_sd1() -> Tiny:
    torch.manual_seed(5)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=40,
        attention_head_dim=4,
    )
    return Tiny("sd1", {"unet": unet, "text_encoder": transformers.CLIPTextModel(text_config(40))})


def tiny_sdxl() -> Tiny:
    """SDXL's own block structure: other programs count its blocks."""
    torch.manual_seed(6)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24, 32),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),  # pyright: ignore[reportArgumentType] - typed as of one element
        cross_attention_dim=88,
        attention_head_dim=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=96,
    )
    first = transformers.CLIPTextModel(text_config(40))
    second = transformers.CLIPTextModelWithProjection(text_config(48))
    return Tiny("sdxl", {"unet": unet, "text_encoder": first, "text_encoder_2": second})


def text_config(width: int) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=60,
        hidden_size=width,
        intermediate_size=2 * width + 8,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def pipeline(tiny: Tiny) -> diffusers.DiffusionPipeline:
    """All that loading an adapter needs: neither an autoencoder nor a tokenizer."""
    is_sdxl = tiny.family == "sdxl"
    left_out = ("vae", "tokenizer", *(("tokenizer_2",) if is_sdxl else ("safety_checker", "feature_extractor")))
    # Any: pipelines take None for what is left out, though their types do not say so
    parts: dict[str, Any] = {"scheduler": diffusers.DDIMScheduler(), **tiny.components, **dict.fromkeys(left_out)}
    if is_sdxl:
        return diffusers.StableDiffusionXLPipeline(**parts)
    return diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
