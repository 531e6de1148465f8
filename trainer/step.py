"""One loss: a batch, the models, and random numbers that follow from the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dora_core.adapter import Adapter
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
    adapters: Mapping[str, Adapter]  # of all parts
    text: TextSource
    schedule: NoiseSchedule
    autocast: Callable[[], AbstractContextManager[object]]
    min_snr_gamma: float | None

    def loss(self, batch: Batch, draw: Draw) -> Loss:
        """That of `batch` at the noise and timesteps of `draw`."""
        device = next(self.unet.parameters()).device
        latents, noise, timesteps = (t.to(device) for t in (batch.latents, draw.noise, draw.timesteps))
        alpha_bar = self.schedule.at(timesteps)
        noisy = add_noise(latents, noise, alpha_bar)  # (batch, c, h/8, w/8)
        predicted = self._predicted(batch, noisy, timesteps)
        if batch.keeps_base:
            target = self._base_predicted(batch, noisy, timesteps)
        else:
            target = prediction_target(latents, noise, alpha_bar, self.schedule.prediction)
        weight = min_snr_weight(alpha_bar, self.min_snr_gamma, self.schedule.prediction).flatten()
        error = squared_error(predicted, target) * batch.pixel_weights.to(device)  # (batch, c, h/8, w/8)
        weighted = diffusion_loss(error, weight * batch.weights.to(device))
        return Loss(weighted, error.detach().mean(dim=(1, 2, 3)))

    def _predicted(self, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        parameter = next(self.unet.parameters())
        with self.autocast():
            conditioning = self.text.conditioning(batch.captions).to(parameter.device, parameter.dtype)
            arguments = unet_arguments(self.family, conditioning, batch.framings)
            return self.unet(noisy.to(parameter.dtype), timesteps, **arguments).sample

    @torch.no_grad()
    def _base_predicted(self, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """What UNet and text encoders say without their adapters."""
        with ExitStack() as without:
            for adapter in self.adapters.values():
                without.enter_context(adapter.disabled())
            return self._predicted(batch, noisy, timesteps)


@dataclass(frozen=True)
class Loss:
    """`weighted` is minimised; `errors`: (batch,), mean squared error of what counts of each picture, no gradient."""

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
