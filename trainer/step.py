"""One loss: a batch, the models, and random numbers that follow from the step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.data.dataset import Batch
from trainer.data.text_cache import TextSource
from trainer.diffusion import (
    NoiseSchedule,
    add_noise,
    diffusion_loss,
    min_snr_weight,
    prediction_target,
    squared_error,
)
from trainer.seeds import generator
from trainer.text import unet_arguments


@dataclass(frozen=True)
class Denoiser:
    """Everything that a prediction needs besides the batch."""

    family: str
    unet: nn.Module
    text: TextSource
    schedule: NoiseSchedule
    autocast: Callable[[], AbstractContextManager[object]]
    min_snr_gamma: float | None

    def loss(self, batch: Batch, draw: Draw) -> Loss:
        """That of `batch` at the noise and timesteps of `draw`."""
        parameter = next(self.unet.parameters())
        device, dtype = parameter.device, parameter.dtype
        latents, noise, timesteps = (t.to(device) for t in (batch.latents, draw.noise, draw.timesteps))
        alpha_bar = self.schedule.at(timesteps)
        noisy = add_noise(latents, noise, alpha_bar)  # (batch, c, h/8, w/8)
        with self.autocast():
            conditioning = self.text.conditioning(batch.captions).to(device, dtype)
            arguments = unet_arguments(self.family, conditioning, batch.framings)
            predicted = self.unet(noisy.to(dtype), timesteps, **arguments).sample
        target = prediction_target(latents, noise, alpha_bar, self.schedule.prediction)
        weight = min_snr_weight(alpha_bar, self.min_snr_gamma, self.schedule.prediction)
        error = squared_error(predicted, target)  # (batch, c, h/8, w/8)
        return Loss(diffusion_loss(error, weight), error.detach().mean(dim=(1, 2, 3)))


@dataclass(frozen=True)
class Loss:
    """`weighted` is minimised; `errors`: (batch,), mean squared error of each picture, without weight or gradient."""

    weighted: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Draw:
    """noise: like the latents; timesteps: (batch,)."""

    noise: Tensor
    timesteps: Tensor


def draw(batch: Batch, timesteps: int, *names: int | str) -> Draw:
    """Noise and timesteps, uniform, of the generator with these names; on the CPU."""
    random = generator(*names)
    return Draw(
        torch.randn(batch.latents.shape, generator=random),
        torch.randint(0, timesteps, (len(batch.latents),), generator=random),
    )
