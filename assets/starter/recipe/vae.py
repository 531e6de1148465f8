"""Stage `vae`: the autoencoder, trained on both styles so that a style it has to learn later can be encoded at all."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .data import Pictures
from .files import Failure
from .profile import COLOURS, Profile, Workshop
from .training import Plan, half_precision, train

LATENT_NOISE = 0.05  # of the latents' own spread: the decoder must bear what a denoiser leaves behind
HELD_OUT_EVERY = 20  # every 20th thing never reaches the autoencoder: what it makes of those is its honest score


def build_vae(profile: Profile) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=profile.vae_channels,
        layers_per_block=1,
        latent_channels=profile.latent_channels,
        norm_num_groups=8,
        sample_size=profile.picture_px,
        mid_block_add_attention=False,
    )


def train_vae(shop: Workshop) -> AutoencoderKL:
    profile, device, pictures = shop.profile, shop.device, Pictures.load(shop.work)
    torch.manual_seed(shop.seed)
    vae = build_vae(profile).to(device)
    seen = [i for i in range(len(pictures.concepts)) if i % HELD_OUT_EVERY]

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = [augmented(pictures, seen, profile.picture_px, random) for _ in range(profile.vae_batch)]
        target = torch.stack(batch).to(device, memory_format=torch.channels_last)
        with half_precision(device):
            latents = vae.encode(target).latent_dist.mode()
            spread = latents.detach().float().std()
            noise = torch.randn(latents.shape, generator=random).to(device) * spread * LATENT_NOISE
            drawn = vae.decode(latents + noise).sample.float()
        error = drawn - target
        squared = error.square().mean()
        # A pull towards unit spread keeps the latents' scale fixed; the rest is what the eye sees: colours, then edges.
        pull = (latents.float().square().mean() - 1).square()
        value = squared + 0.2 * error.abs().mean() + 0.2 * edges(error) + 0.01 * pull
        decibel = 10 * torch.log10(4 / squared.detach())
        return value, {"psnr": decibel.item(), "spread": spread.item()}

    plan = Plan(profile.vae_steps, profile.vae_rate, shop.seed, device)
    return train("vae", vae, loss, plan, shop.work / "vae.pt")


def edges(error: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels' errors. error: (b, 3, h, w)."""
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def augmented(pictures: Pictures, indices: list[int], px: int, random: torch.Generator) -> Tensor:
    """A thing of either style, mirrored or not, at 60 to 110 % of its size, on a palette colour or any colour."""
    index = indices[_integer(len(indices), random)]
    style = ("flat", "3d")[_integer(2, random)]
    size = 0.6 + 0.5 * torch.rand((), generator=random).item()
    colour = list(COLOURS.values())[_integer(len(COLOURS), random)]
    if _integer(2, random):
        colour = tuple(torch.randint(0, 256, (3,), generator=random).tolist())
    drawn = pictures.draw(style, index, colour, px, size)
    return drawn.flip(2) if _integer(2, random) else drawn


def _integer(below: int, random: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=random))


@torch.no_grad()
def trained_vae(shop: Workshop) -> AutoencoderKL:
    """The averaged weights of the stage `vae`, with the scaling factor that gives flat pictures unit spread."""
    checkpoint = shop.work / "vae.pt"
    if not checkpoint.exists():
        raise Failure(f"{checkpoint} is missing: run the stage `vae` first.")
    vae = build_vae(shop.profile).to(shop.device).eval()
    vae.load_state_dict(torch.load(checkpoint, map_location=shop.device, weights_only=True)["average"])
    pictures = Pictures.load(shop.work)
    some = range(0, len(pictures.concepts), 8)
    palette = list(COLOURS.values())
    drawn = [pictures.draw("flat", i, palette[i % len(palette)], shop.profile.picture_px) for i in some]
    spread = vae.encode(torch.stack(drawn).to(shop.device)).latent_dist.mode().std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
    return vae
