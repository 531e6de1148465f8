"""The sizes of the model and of the work that makes it: one row for two CPU cores, one for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SEED = 20_261_122

# Name -> sRGB. Far apart from each other, so that "which background is this?" has one answer.
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 248),
    "grey": (150, 153, 160),
    "black": (30, 30, 34),
    "red": (212, 62, 58),
    "orange": (242, 140, 48),
    "yellow": (250, 208, 78),
    "green": (92, 172, 92),
    "teal": (30, 142, 140),
    "blue": (66, 118, 218),
    "purple": (134, 86, 192),
    "pink": (246, 164, 194),
    "brown": (136, 94, 66),
}

# What a model that cannot learn every thing learns of each group: most of what people like to draw.
SHARES = {
    "Animals & Nature": 0.33,
    "Food & Drink": 0.29,
    "Activities": 0.10,
    "Objects": 0.12,
    "Travel & Places": 0.10,
    "Smileys & Emotion": 0.06,
}

# Drawn in both styles, but not what anybody would ask a first model for, or not what the name says.
NOT_LEARNED = frozenset(
    """kaaba, church, love hotel, face vomiting, headstone, cooking, mate, wing, salt, low battery, x-ray,
    building construction""".replace("\n    ", " ").split(", ")
)

LICENCES = {
    "@iconify-json/noto": "Noto Emoji, Apache-2.0, Google LLC",
    "@lobehub/fluent-emoji-3d": "Fluent Emoji 3D, MIT, Microsoft Corporation (packaged by LobeHub)",
    "unicode-emoji-json": "names and groups, MIT, Mu-An Chiou",
}


@dataclass(frozen=True)
class Profile:
    """One way to build the starter; `picture_px` is the side of its pictures, 8 times the side of its latents."""

    picture_px: int
    concepts: int  # how many things the model learns to draw
    latent_channels: int
    vae_channels: tuple[int, ...]
    vae_batch: int
    vae_steps: int
    vae_rate: float
    unet_channels: tuple[int, ...]
    unet_layers: int
    text_width: int
    text_layers: int
    unet_batch: int
    unet_steps: int
    unet_rate: float


@dataclass(frozen=True)
class Workshop:
    """What every stage is given: the sizes, the folder of downloads and checkpoints, and the folder to write into."""

    profile: Profile
    work: Path
    assets: Path
    device: str = "cpu"
    seed: int = SEED


PROFILES = {
    "cpu": Profile(
        picture_px=64,
        concepts=300,
        latent_channels=16,
        vae_channels=(32, 64, 96, 160),
        vae_batch=8,
        vae_steps=5_500,
        vae_rate=2.5e-3,
        unet_channels=(128, 128),
        unet_layers=1,
        text_width=128,
        text_layers=3,
        unet_batch=32,
        unet_steps=5_600,
        unet_rate=2.5e-3,
    ),
    "gpu": Profile(
        picture_px=128,
        concepts=1000,
        latent_channels=16,
        vae_channels=(32, 64, 96, 160),
        vae_batch=16,
        vae_steps=40_000,
        vae_rate=2.5e-3,
        unet_channels=(128, 192, 256),
        unet_layers=1,
        text_width=128,
        text_layers=3,
        unet_batch=128,
        unet_steps=40_000,
        unet_rate=2.5e-3,
    ),
}
