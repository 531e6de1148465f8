"""One loss: a batch, the models, and random numbers that follow from the step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from trainer.config_sections import LossConfig
from trainer.data.dataset import Batch
from trainer.data.text_cache import TextSource
from trainer.diffusion import (
    NoiseSchedule,
    add_noise,
    diffusion_loss,
    prediction_target,
    squared_error,
)
from trainer.noise import Draw
from trainer.objective import sized, timestep_weight
from trainer.text import unet_arguments


@dataclass(frozen=True)
class Denoiser:
    """Everything that a prediction needs besides the batch."""

    family: str
    unet: nn.Module
    text: TextSource
    schedule: NoiseSchedule
    autocast: Callable[[], AbstractContextManager[object]]
    objective: LossConfig

    def loss(self, batch: Batch, draw: Draw) -> Loss:
        """That of `batch` at the noise and timesteps of `draw`."""
        parameter = next(self.unet.parameters())
        device, dtype = parameter.device, parameter.dtype
        latents, noise, timesteps = (t.to(device) for t in (batch.latents, draw.noise, draw.timesteps))
        alpha_bar = self.schedule.at(timesteps)
        added = noise if draw.perturbation is None else noise + draw.perturbation.to(device)
        noisy = add_noise(latents, added, alpha_bar)  # (batch, c, h/8, w/8)
        with self.autocast():
            conditioning = self.text.conditioning(batch.captions).to(device, dtype)
            arguments = unet_arguments(self.family, conditioning, batch.framings)
            predicted = self.unet(noisy.to(dtype), timesteps, **arguments).sample
        target = prediction_target(latents, noise, alpha_bar, self.schedule.prediction)
        squared = squared_error(predicted, target)  # (batch, c, h/8, w/8)
        error = sized(squared, alpha_bar, self.objective)
        weight = timestep_weight(alpha_bar, self.schedule.prediction, self.objective)
        return Loss(diffusion_loss(error, weight), squared.detach().mean(dim=(1, 2, 3)))


@dataclass(frozen=True)
class Loss:
    """`weighted` is minimised; `errors`: (batch,), mean squared error of each picture, without weight or gradient."""

    weighted: Tensor
    errors: Tensor
