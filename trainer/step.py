"""One loss: a batch, the models, and random numbers that follow from the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora_core.adapter import Adapter
from trainer.config_learning import LossConfig
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
    adapters: Mapping[str, Adapter]  # of all parts
    text: TextSource
    schedule: NoiseSchedule
    autocast: Callable[[], AbstractContextManager[object]]
    objective: LossConfig

    def loss(self, batch: Batch, draw: Draw) -> Loss:
        """That of `batch` at the noise and timesteps of `draw`."""
        device = next(self.unet.parameters()).device
        latents, noise, timesteps = (t.to(device) for t in (batch.latents, draw.noise, draw.timesteps))
        alpha_bar = self.schedule.at(timesteps)
        added = noise if draw.perturbation is None else noise + draw.perturbation.to(device)
        noisy = add_noise(latents, added, alpha_bar)  # (batch, c, h/8, w/8)
        predicted = self.predict(batch, noisy, timesteps)
        if batch.keeps_base:
            target = self.predict_base(batch, noisy, timesteps)
        else:
            target = prediction_target(latents, noise, alpha_bar, self.schedule.prediction)
        squared = squared_error(predicted, target)  # (batch, c, h/8, w/8)
        pixel_weights = batch.pixel_weights.to(device)
        error = sized(squared, alpha_bar, self.objective) * pixel_weights
        weight = timestep_weight(alpha_bar, self.schedule.prediction, self.objective).flatten()
        weighted = diffusion_loss(error, weight * batch.weights.to(device))
        return Loss(weighted, (squared.detach() * pixel_weights).mean(dim=(1, 2, 3)))

    def predict(self, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet says of `noisy`, both (batch, c, h/8, w/8), under the batch's captions."""
        parameter = next(self.unet.parameters())
        with self.autocast():
            conditioning = self.text.conditioning(batch.captions).to(parameter.device, parameter.dtype)
            arguments = unet_arguments(self.family, conditioning, batch.framings)
            return self.unet(noisy.to(parameter.dtype), timesteps, **arguments).sample

    @torch.no_grad()
    def predict_base(self, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The same without any adapter: by the base model's UNet and text encoders. No gradient."""
        with ExitStack() as without:
            for adapter in self.adapters.values():
                without.enter_context(adapter.disabled())
            return self.predict(batch, noisy, timesteps)


@dataclass(frozen=True)
class Loss:
    """`weighted` is minimised; `errors`: (batch,), mean squared error of what counts of each picture, no gradient."""

    weighted: Tensor
    errors: Tensor
