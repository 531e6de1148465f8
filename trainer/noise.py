"""What a step draws: timesteps, and the noise that goes onto pictures. On the CPU, from generators named by the step.

Whatever is switched off draws nothing, and each kind has a generator of its own: switching one on leaves the others'
numbers as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainer.config_learning import NoiseConfig
from trainer.seeds import generator


@dataclass(frozen=True)
class Draw:
    """noise: like the latents, what the model is to find in them; timesteps: (batch,).

    perturbation: like the noise; goes in with it, and is not to be found.
    """

    noise: Tensor
    timesteps: Tensor
    perturbation: Tensor | None = None


def draw(shape: torch.Size, steps: int, noise: NoiseConfig, *names: int | str) -> Draw:
    """For latents of `shape`, (batch, c, h, w), on a schedule of `steps`, by the generators with these names."""
    random = generator(*names)
    plain = torch.randn(shape, generator=random)
    timesteps = draw_timesteps(shape[0], steps, noise, random)
    if noise.pyramid:
        plain = pyramid_noise(plain, noise.pyramid, generator(*names, "pyramid"))
    if noise.offset:
        plain = offset_noise(plain, noise.offset, generator(*names, "offset"))
    perturbation = None
    if noise.perturbation:
        perturbation = noise.perturbation * torch.randn(shape, generator=generator(*names, "perturbation"))
    return Draw(plain, timesteps, perturbation)


def draw_timesteps(count: int, steps: int, noise: NoiseConfig, random: torch.Generator) -> Tensor:
    """`count` of the timesteps 0 to `steps` - 1 in the range, by their distribution."""
    first, last = timestep_bounds(steps, noise)
    if noise.timesteps == "uniform":
        return torch.randint(first, last, (count,), generator=random)
    scale = 1.0 if noise.timestep_scale is None else noise.timestep_scale
    if noise.timesteps == "mode":
        shares = mode_shares(torch.rand(count, generator=random), scale)
    else:
        shares = torch.sigmoid((noise.timestep_location or 0.0) + scale * torch.randn(count, generator=random))
    return (first + (shares * (last - first)).long()).clamp(max=last - 1)


def timestep_bounds(steps: int, noise: NoiseConfig) -> tuple[int, int]:
    """The first timestep of the range and the one after its last; at least one lies between."""
    low, high = noise.timestep_range
    first = min(round(low * steps), steps - 1)
    return first, max(round(high * steps), first + 1)


def mode_shares(uniform: Tensor, scale: float) -> Tensor:
    """Mode sampling (arXiv 2403.03206, eq. 20): 1 - u - s (cos^2(pi/2 u) - 1 + u), densest around 1/2 for s > 0."""
    return 1 - uniform - scale * (torch.cos(math.pi / 2 * uniform).square() - 1 + uniform)


def offset_noise(noise: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """eps + strength * eta, one eta per picture and channel (crosslabs.org/blog/diffusion-with-offset-noise)."""
    return noise + strength * torch.randn((*noise.shape[:2], 1, 1), generator=random)


def pyramid_noise(noise: Tensor, discount: float, random: torch.Generator) -> Tensor:
    """Noise of half the size, a quarter ... one pixel, stretched, times discount, discount^2 ..., onto `noise`.

    Multi-resolution noise as of J. Whitaker (wandb.ai/johnowhitaker/multires_noise), with a fixed factor between levels
    and every picture brought back to a standard deviation of 1.
    """
    size = height, width = noise.shape[2:]
    level = 0
    while max(height, width) > 1:
        level, height, width = level + 1, math.ceil(height / 2), math.ceil(width / 2)
        coarse = torch.randn((*noise.shape[:2], height, width), generator=random)
        noise = noise + discount**level * interpolate(coarse, size, mode="bilinear")
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)
