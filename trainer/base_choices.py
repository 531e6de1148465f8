"""What a run's settings say of its base model, held against what the model's files say. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dora_core.header import read_header
from trainer.base_files import PREDICTION_TYPES, BaseFacts, locate
from trainer.checkpoint_header import LATENT_CHANNELS
from trainer.config_sections import ModelConfig

VAE_INPUT = "decoder.conv_in.weight"  # in the original's names and in diffusers'


def as_chosen(facts: BaseFacts, model: ModelConfig) -> BaseFacts:
    """With what the user says of the model in place of what its files say."""
    said = {
        "prediction": None if model.prediction == "auto" else model.prediction,
        "ends_in_noise": model.zero_terminal_snr,
    }
    return replace(facts, **{name: value for name, value in said.items() if value is not None})


def schedule_changes(scheduler: Mapping[str, Any], facts: BaseFacts) -> dict[str, Any]:
    """What its config has to say otherwise; where it has to, a DDIM scheduler takes its place."""
    changes: dict[str, Any] = {}
    stated = PREDICTION_TYPES.get(scheduler.get("prediction_type", "epsilon"))
    if facts.prediction is not None and stated != facts.prediction:
        changes["prediction_type"] = {"epsilon": "epsilon", "v": "v_prediction"}[facts.prediction]
    if bool(scheduler.get("rescale_betas_zero_snr")) != facts.ends_in_noise:
        changes["rescale_betas_zero_snr"] = facts.ends_in_noise
        if facts.ends_in_noise:  # drawing has to begin at that last timestep (arXiv 2305.08891, section 3.3)
            changes["timestep_spacing"] = "trailing"
    return changes


def clip_skip_refusal(clip_skip: int | None, base: BaseFacts) -> str:
    """Why the text encoders have no such layer; empty: they have."""
    if clip_skip is None or base.family is None:
        return ""
    own = base.family.clip_skip
    layers = [max(numbers) for numbers in _text_layers(base).values()]
    most = min(layers, default=clip_skip) + own
    if own <= clip_skip <= most:
        return ""
    return f"{clip_skip} is no layer of {base.name}, a {base.family.title}: give one from {own} (its own) to {most}"


def _text_layers(base: BaseFacts) -> Mapping[str, set[int]]:
    """Numbers of the layers by text encoder."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for name in base.shapes:
        if name.startswith("text_encoder"):
            part, _, rest = name.partition(".text_model.encoder.layers.")
            found[part].add(int(rest.partition(".")[0]))
    return found


def vae_refusal(vae: str | None, base: BaseFacts) -> str:
    """Why the model cannot be used with this choice of a VAE; empty: it can. FileFormatError as from `locate`."""
    if vae is None:
        is_there = not base.is_counted or "vae" in base.parameters
        return "" if is_there else f"{base.name} has no VAE in it: name one, a .safetensors file, a folder or a hub id"
    path = locate(vae)
    if path is None or not path.is_file():
        return ""
    shapes = read_header(path).shapes
    names = [key for key in shapes if key.endswith(VAE_INPUT)]
    if not names:
        return f"{vae} is no VAE: it has no {VAE_INPUT}"
    channels, own = shapes[names[0]][1], base.shapes["unet.conv_in"][1] if base.shapes else LATENT_CHANNELS
    if channels != own:
        return f"{vae} is a VAE of {channels} latent channels, {base.name} has {own}: choose another one"
    return ""
