"""Counts activation_bytes.json: what a step holds at its worst moment besides the weights, per pixel of the picture.

    python -m trainer.count_activations

A forward and a backward pass of each released UNet at its own resolution, batch 1, bfloat16, on the meta device, where
only shapes are computed; attention as a flash kernel keeps it. At rank 1, so that the adapter's gradients, which do not
grow with the picture, hardly count. The VAE decodes in float32.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.checkpoint import checkpoint

from dora_core.families import FAMILIES, UNET_TARGETS, TargetSet
from dora_core.injection import inject
from dora_core.spec import AdapterSpec
from trainer.bench.saved_bytes import FlashAttention, LiveBytes
from trainer.lean import choose_blocks
from trainer.released import released_architectures, released_vae
from trainer.vram import ACTIVATION_TABLE

COUNTED = ("sd1", "sdxl")  # SD 2's UNet has SD 1's blocks
RATIO_FROM = "sd1"  # how much more the output axis holds is about the same in both
KINDS: Mapping[str, AdapterSpec] = {
    "lora": AdapterSpec(kind="lora"),  # DoRA on the input axis keeps the same
    "dora-output": AdapterSpec(kind="dora", norm_axis="output"),
}
MODES = ("plain", "checkpointing", "transformers")  # the last: checkpointing of these blocks alone
RANK = 1
CONTEXT_TOKENS = 77


def main() -> None:
    lora = {
        " ".join(case): _at_own_size(case[0], "lora", *case[1:])
        for case in itertools.product(COUNTED, UNET_TARGETS, MODES)
    }
    output_axis = {
        " ".join(case): _at_own_size(RATIO_FROM, "dora-output", *case) / lora[" ".join((RATIO_FROM, *case))]
        for case in itertools.product(UNET_TARGETS, MODES)
    }
    table = {
        "unet": {case: round(count, 1) for case, count in lora.items()},
        "output axis by input axis": {case: round(ratio, 4) for case, ratio in output_axis.items()},
        "vae": {"decode": round(decode_bytes_per_pixel(512), 1)},
    }
    ACTIVATION_TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _at_own_size(family: str, kind: str, targets: TargetSet, mode: str) -> float:
    return step_bytes_per_pixel(family, kind, targets, mode, FAMILIES[family].resolution_px["epsilon"])


def step_bytes_per_pixel(family: str, kind: str, targets: TargetSet, mode: str, side_px: int) -> float:
    """Bytes alive at the worst moment of a step on one picture, without the weights, by its pixels."""
    unet = _unet(family)
    if mode != "plain":
        # recomputation runs outside of the caller's modes
        unet.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=_recomputation))
        choose_blocks(unet, "transformers" if mode == "transformers" else "all")
    spec = KINDS[kind]
    inject(
        unet,
        AdapterSpec(kind=spec.kind, norm_axis=spec.norm_axis, rank=RANK, include=UNET_TARGETS[targets]),
    )
    unet.train()
    with LiveBytes() as live, FlashAttention():
        cast(Any, unet)(**_inputs(unet, side_px)).sample.float().square().mean().backward()
    return live.peak / side_px**2


def decode_bytes_per_pixel(side_px: int) -> float:
    with torch.device("meta"):
        vae = AutoencoderKL(**released_vae(FAMILIES["sd1"]))
        latents = torch.empty(1, 4, side_px // 8, side_px // 8)
    with torch.no_grad(), LiveBytes() as live, FlashAttention():
        cast(Any, vae).decode(latents)  # the hints of diffusers want a legacy tensor type
    return live.peak / side_px**2


def _recomputation() -> tuple[Any, Any]:
    return nullcontext(), FlashAttention()


def _unet(family: str) -> UNet2DConditionModel:
    config = released_architectures()[FAMILIES[family].component("unet").architecture]["config"]
    with torch.device("meta"):
        return cast(Any, UNet2DConditionModel(**config)).to(torch.bfloat16).requires_grad_(False)


def _inputs(unet: UNet2DConditionModel, side_px: int) -> dict[str, Any]:
    config = cast(Any, unet.config)  # typed as a plain dict
    like: Any = {"device": "meta", "dtype": torch.bfloat16}
    inputs: dict[str, Any] = {
        "sample": torch.empty(1, 4, side_px // 8, side_px // 8, **like),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, CONTEXT_TOKENS, config.cross_attention_dim, **like),
    }
    if config.addition_embed_type == "text_time":
        sizes = 6 * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - sizes
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled, **like),
            "time_ids": torch.empty(1, 6, device="meta"),
        }
    return inputs


if __name__ == "__main__":
    main()
