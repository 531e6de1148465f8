"""Whole training steps of a UNet: forward, MSE, backward, AdamW, in every variant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import AdamW

from dora_core.families import UNET_TARGETS
from dora_core.spec import AdapterSpec
from trainer.bench.timing import Call
from trainer.bench.variants import VARIANTS, Adapted, autocast, random_states

RANK = 16
CONTEXT_TOKENS = 77
ATTENTION = AdapterSpec(rank=RANK, include=UNET_TARGETS["attention"])
TRANSFORMERS = AdapterSpec(rank=RANK, include=UNET_TARGETS["attention-mlp"])
ALL_LAYERS = AdapterSpec(rank=RANK, include=UNET_TARGETS["attention-mlp-conv"], exclude=("*.time_emb_proj",))


@dataclass(frozen=True)
class Workload:
    """A UNet by its configuration, the layers that are adapted and the size of what it is trained on."""

    title: str
    config: Mapping[str, Any]
    spec: AdapterSpec
    latent_px: int
    batch: int = 1


@dataclass(frozen=True)
class Batch:
    """Keyword arguments of the UNet, and what it should predict."""

    inputs: Mapping[str, Any]
    target: Tensor


def sd_widths() -> Workload:
    """The widths of Stable Diffusion on few pixels: work on weights dominates, the hardest case for a norm."""
    config = {
        "block_out_channels": [320, 640],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 768,
    }
    return Workload("UNet of SD-like widths, 16x16 latents, 165 layers", config, ALL_LAYERS, latent_px=16)


def tiny() -> Workload:
    config = {
        "block_out_channels": [8, 16],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    return Workload("tiny UNet", config, replace(ALL_LAYERS, rank=2), latent_px=8)


def sd15() -> Workload:
    return Workload("SD1.5, 512 px, batch 4, all layers", _released("unet-sd1"), ALL_LAYERS, latent_px=64, batch=4)


def sdxl(spec: AdapterSpec, layers: str) -> Workload:
    return Workload(f"SDXL, 1024 px, batch 1, {layers}", _released("unet-sdxl"), spec, latent_px=128)


def gpu_workloads() -> tuple[Workload, ...]:
    return sd15(), sdxl(ATTENTION, "560 attention layers"), sdxl(TRANSFORMERS, "722 transformer layers")


def make_unet(workload: Workload, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Frozen, with random weights."""
    torch.manual_seed(0)
    with device:
        unet = UNet2DConditionModel(**workload.config)
    return nn.Module.to(unet, dtype).requires_grad_(False)  # diffusers' own `to` warns of a list that is empty here


def make_batch(workload: Workload, device: torch.device, dtype: torch.dtype) -> Batch:
    """Random; as in training, the inputs need no gradient."""
    draw = partial(torch.randn, device=device, dtype=dtype)
    size, latents = workload.batch, (workload.batch, 4, workload.latent_px, workload.latent_px)
    inputs: dict[str, Any] = {
        "sample": draw(latents),
        "timestep": torch.full((size,), 500, device=device),
        "encoder_hidden_states": draw(size, CONTEXT_TOKENS, workload.config["cross_attention_dim"]),
    }
    if workload.config.get("addition_embed_type") == "text_time":  # SDXL: a pooled text embedding and six sizes
        inputs["added_cond_kwargs"] = {"text_embeds": draw(size, 1280), "time_ids": draw(size, 6)}
    return Batch(inputs, draw(latents))


def step_calls(workload: Workload, device: torch.device, dtype: torch.dtype, *, with_compiled: bool) -> dict[str, Call]:
    """One training step by the variant's name. Each has its own weights to learn, the frozen ones are there once."""
    unet = make_unet(workload, device, dtype)
    batch = make_batch(workload, device, dtype)
    states = random_states(unet, workload.spec, seed=0)
    calls: dict[str, Call] = {}
    for variant in VARIANTS:
        adapted = variant.adapt(unet, states)
        if adapted.parameters:
            calls[variant.name] = training_step(adapted, batch)
        if adapted.adapter and with_compiled:
            passes, blocks = variant.adapt(unet, states), variant.adapt(unet, states)
            passes.compile_passes()
            assert isinstance(blocks.model, UNet2DConditionModel)
            blocks.model.compile_repeated_blocks(dynamic=False)
            calls[f"{variant.name}, passes compiled"] = training_step(passes, batch)
            calls[f"{variant.name}, blocks compiled"] = training_step(blocks, batch)
    return calls


def training_step(adapted: Adapted, batch: Batch) -> Callable[[], Tensor]:
    """A call that takes one step and returns the loss before it. A step of ours computes the norms once."""
    optimizer = AdamW(adapted.parameters, lr=1e-4, fused=True)
    if adapted.adapter:
        adapted.adapter.attach(optimizer)

    def step() -> Tensor:
        loss = forward_backward(adapted, batch)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def forward_backward(adapted: Adapted, batch: Batch) -> Tensor:
    """The loss; the gradients are left at the parameters."""
    with autocast(batch.target):
        prediction = adapted.model(**batch.inputs).sample
    loss = mse_loss(prediction.float(), batch.target.float())
    loss.backward()
    return loss.detach()


def fitting(calls: Mapping[str, Call]) -> dict[str, Call]:
    """Those that do not run out of the GPU's memory."""
    fits: dict[str, Call] = {}
    for name, call in calls.items():
        with suppress(torch.OutOfMemoryError):
            call()
            fits[name] = call
    return fits


def _released(architecture: str) -> Mapping[str, Any]:
    """The configuration of a released UNet."""
    text = resources.files("dora_core").joinpath("data", "architectures.json").read_text(encoding="utf-8")
    return json.loads(text)[architecture]["config"]
