"""The arithmetic of a training step: noise schedule, noising, target, loss. Pure functions, in float32.

Notation: a = alpha_bar_t, the share of the picture's variance that is left at timestep t; SNR = a / (1 - a).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DDPMScheduler
from torch import Tensor

from dora_core.families import Prediction

PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class NoiseSchedule:
    """alphas_bar: (timesteps,), falling, on the CPU; prediction: what the UNet was trained to say."""

    alphas_bar: Tensor
    prediction: Prediction

    def at(self, timesteps: Tensor) -> Tensor:
        """alpha_bar of each timestep, to be broadcast over latents: (batch, 1, 1, 1)."""
        return self.alphas_bar.to(timesteps.device)[timesteps].reshape(-1, 1, 1, 1)


def noise_schedule(scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule that a diffusers scheduler's config describes; ValueError for what nobody can train on."""
    kind = scheduler_config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(f"the base model predicts {kind!r}; supported are {', '.join(PREDICTIONS)}: use another base.")
    ends_in_noise = bool(scheduler_config.get("rescale_betas_zero_snr", False))
    if ends_in_noise and PREDICTIONS[kind] == "epsilon":
        raise ValueError(
            "zero terminal SNR needs a model that predicts v; this one predicts epsilon, which says nothing about the "
            "picture where there is only noise: set model.zero_terminal_snr to false, or model.prediction to v."
        )
    plain = DDPMScheduler.from_config(dict(scheduler_config) | {"rescale_betas_zero_snr": False})
    assert isinstance(plain, DDPMScheduler)  # not the pair that from_config can be asked for
    alphas_bar = plain.alphas_cumprod.float()
    return NoiseSchedule(rescale_to_zero_snr(alphas_bar) if ends_in_noise else alphas_bar, PREDICTIONS[kind])


def rescale_to_zero_snr(alphas_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that the last is 0 and the first stays (arXiv 2305.08891, algorithm 1)."""
    roots = alphas_bar.sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * first / (first - last)).square()


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al., arXiv 2006.11239, eq. 4)."""
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def prediction_target(latents: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """eps itself, or v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans & Ho, arXiv 2202.00512, appendix D)."""
    if prediction == "epsilon":
        return noise
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Of every value, in float32: (batch, c, h, w), as both are. What weighs pixels is multiplied onto this."""
    return (predicted.float() - target.float()).square()


def diffusion_loss(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch of weight * mean error of a picture; error: (batch, c, h, w)."""
    return (weight.flatten() * error.mean(dim=(1, 2, 3))).mean()
