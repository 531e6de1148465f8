"""Pictures as the UNet sees them: encoded once, kept by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainer.data.buckets import Placement
from trainer.data.dataset import Example, View, pixel_weights, pixels
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

    def encode_all(self, examples: Sequence[Example], report: Report) -> tuple[tuple[View, ...], ...]:
        """Of each the views of its placements, in float32 on the CPU. Raises BadLatentsError.

        Every placement is encoded by itself: what the VAE says of a mirrored picture is no mirrored latent.
        """
        views: list[tuple[View, ...]] = []
        for done, example in enumerate(examples):
            report(done, len(examples))
            views.append(tuple(self._view(example, placement) for placement in example.placements))
        return tuple(views)

    def _view(self, example: Example, at: Placement) -> View:
        picture = ("latents 2", self.vae_fingerprint, self.background, example.picture.sha256, at)
        latents = self.cache.get(cache_key(*picture), lambda: {"latents": self._encode(example, at)})["latents"]
        mask = example.mask
        if mask is None or example.settings.mask is None:
            return View(latents, pixel_weights(None, 1.0, at))
        outside = example.settings.mask.unmasked_weight
        key = cache_key("mask 1", mask.sha256, mask.is_alpha, outside, at)
        return View(latents, self.cache.get(key, lambda: {"mask": pixel_weights(mask, outside, at)})["mask"])

    @torch.no_grad()
    def _encode(self, example: Example, at: Placement) -> Tensor:
        """The mean of what the VAE says, which is next to certain: the spread of a photo's latents is a thousandth."""
        picture = pixels(example, at, self.background)[None].to(self.vae.device, self.vae.dtype)
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
