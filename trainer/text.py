"""Captions to what the UNet is conditioned on: one function per family, and nothing else that knows families apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

Tokens = Mapping[str, Tensor]  # by text encoder: ids, (batch, tokens)


@dataclass(frozen=True)
class Conditioning:
    """What captions mean to the UNet. hidden: (batch, tokens, width); pooled, SDXL only: (batch, width)."""

    hidden: Tensor
    pooled: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        return Conditioning(
            self.hidden.to(device, dtype), None if self.pooled is None else self.pooled.to(device, dtype)
        )


@dataclass(frozen=True)
class Framing:
    """How a training picture was cut: (width, height) before, (left, top) of the crop, (width, height) after.

    SDXL is told so (arXiv 2307.01952, section 2.2): left and top in pixels of the resized picture.
    """

    original_px: tuple[int, int]
    crop_px: tuple[int, int]
    size_px: tuple[int, int]

    @property
    def time_ids(self) -> list[int]:
        """SDXL's order, each height first: original, top and left of the crop, target."""
        return [*reversed(self.original_px), *reversed(self.crop_px), *reversed(self.size_px)]


def tokenize(tokenizers: Mapping[str, CLIPTokenizer], captions: Sequence[str]) -> dict[str, Tensor]:
    """Ids padded and cut to the length of the tokenizer, on the CPU."""
    return {
        name: tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        for name, tokenizer in tokenizers.items()
    }


def encode(family: str, encoders: Mapping[str, nn.Module], tokens: Tokens, left_out: int = 0) -> Conditioning:
    """Conditioning of a batch of tokens, on the device of the encoders, differentiable in what is trained of them.

    `left_out`: how many more layers at the end of each encoder are not listened to than the family was made with.
    """
    return ENCODE[family](encoders, tokens, left_out)


def unet_arguments(family: str, conditioning: Conditioning, framings: Sequence[Framing]) -> dict[str, Any]:
    """What the UNet is called with besides noisy latents and timesteps."""
    return {"encoder_hidden_states": conditioning.hidden, **ADDED[family](conditioning, framings)}


def _last_layer(encoders: Mapping[str, nn.Module], tokens: Tokens, left_out: int) -> Conditioning:
    """SD 1.x and 2.x: the last layer, normed. (SD 2's file leaves out the layer that it does not use.)"""
    encoder = encoders["text_encoder"]
    ids = _on(tokens["text_encoder"], encoder)
    if not left_out:
        return Conditioning(encoder(ids).last_hidden_state)
    hidden = encoder(ids, output_hidden_states=True).hidden_states[-1 - left_out]
    return Conditioning(encoder.get_submodule("final_layer_norm")(hidden))


def _both_penultimate_layers(encoders: Mapping[str, nn.Module], tokens: Tokens, left_out: int) -> Conditioning:
    """SDXL: the layer before the last of both, side by side, not normed; pooled: the second's projected end of text.

    `left_out` is no matter to the pooled one, in diffusers and ComfyUI alike.
    """
    outputs = [
        encoders[name](_on(tokens[name], encoders[name]), output_hidden_states=True)
        for name in ("text_encoder", "text_encoder_2")
    ]
    hidden = torch.cat([output.hidden_states[-2 - left_out] for output in outputs], dim=-1)
    return Conditioning(hidden, outputs[1].text_embeds)


def _nothing_added(conditioning: Conditioning, framings: Sequence[Framing]) -> dict[str, Any]:
    return {}


def _pooled_text_and_framing(conditioning: Conditioning, framings: Sequence[Framing]) -> dict[str, Any]:
    assert conditioning.pooled is not None  # as SDXL's own encode made it
    ids = torch.tensor([framing.time_ids for framing in framings])
    return {
        "added_cond_kwargs": {
            "text_embeds": conditioning.pooled,
            "time_ids": ids.to(conditioning.pooled.device, conditioning.pooled.dtype),
        }
    }


def _on(ids: Tensor, model: nn.Module) -> Tensor:
    return ids.to(next(model.parameters()).device)


ENCODE: Mapping[str, Callable[[Mapping[str, nn.Module], Tokens, int], Conditioning]] = {
    "sd1": _last_layer,
    "sd2": _last_layer,
    "sdxl": _both_penultimate_layers,
}
ADDED: Mapping[str, Callable[[Conditioning, Sequence[Framing]], dict[str, Any]]] = {
    "sd1": _nothing_added,
    "sd2": _nothing_added,
    "sdxl": _pooled_text_and_framing,
}
