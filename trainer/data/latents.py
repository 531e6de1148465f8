"""Pictures as the UNet sees them: encoded once, kept by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainer.data.dataset import Example, pixels
from trainer.data.tensor_cache import TensorCache, cache_key
from trainer.failures import ExplainedError

Report = Callable[[int, int], None]  # done, total


class BadLatentsError(ExplainedError):
    """The VAE makes of a picture something that is not a number."""

    category = "bad picture"


@dataclass(frozen=True)
class LatentCache:
    """`vae_fingerprint` and `background` are part of every key, as is the content of the picture and its placement."""

    vae: AutoencoderKL
    vae_fingerprint: str
    background: str
    cache: TensorCache

    def encode_all(self, examples: Sequence[Example], report: Report) -> tuple[Tensor, ...]:
        """Latents of each, (channels, height / 8, width / 8) in float32 on the CPU. Raises BadLatentsError."""
        latents: list[Tensor] = []
        for done, example in enumerate(examples):
            report(done, len(examples))
            latents.append(
                self.cache.get(self._key(example), lambda e=example: {"latents": self._encode(e)})["latents"]
            )
        return tuple(latents)

    def _key(self, example: Example) -> str:
        return cache_key("latents 1", self.vae_fingerprint, self.background, example.picture.sha256, example.placement)

    @torch.no_grad()
    def _encode(self, example: Example) -> Tensor:
        """The mean of what the VAE says, which is next to certain: the spread of a photo's latents is a thousandth."""
        picture = pixels(example, self.background)[None].to(self.vae.device, self.vae.dtype)
        latents = scaled_latents(self.vae, picture)[0].float().cpu()
        if not latents.isfinite().all():
            raise BadLatentsError(
                f"The VAE makes no numbers of {example.picture.path.name}.",
                "Save the picture again, or set model.vae to one that does not overflow.",
            )
        return latents


def scaled_latents(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(mean - shift) * scaling factor, of about unit spread; pictures: (batch, 3, height, width) in -1..1."""
    mean = vae.encode(pictures, return_dict=False)[0].mode()
    return (mean - (vae.config["shift_factor"] or 0)) * vae.config["scaling_factor"]
