"""Tiny diffusers pipelines with random weights: real architectures, small enough to draw with in a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def tiny_sd1_pipeline(folder: Path, seed: int = 0) -> StableDiffusionPipeline:
    """A member of family sd1 with every kind of layer that the real one has; `folder` gets its vocabulary."""
    torch.manual_seed(seed)
    text_config = CLIPTextConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
    )
    parts = {
        "unet": UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=8,
            norm_num_groups=8,
        ),
        "text_encoder": CLIPTextModel(text_config),
        "tokenizer": _tokenizer(folder),
        "vae": AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
        **dict.fromkeys(("safety_checker", "feature_extractor")),
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents_of(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    drawn = pipeline("abba", num_inference_steps=2, height=16, width=16, generator=generator, output_type="latent")
    assert not isinstance(drawn, tuple)
    latents = drawn.images
    assert isinstance(latents, torch.Tensor)
    return latents


_VOCABULARY = ["<|startoftext|>", "<|endoftext|>", "a</w>", "a", "b</w>", "b"]


def _tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(_VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
