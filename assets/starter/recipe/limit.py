"""Stage `limit`: how near to the true 3D picture a network comes that may do what no adapter can.

It is shown the true flat picture, and has learned from all other pairs of both styles instead of sixteen 3D pictures.
What it reaches by the demo's measures, with things that it has not seen, is about what a style can reach by them.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
import torch
from diffusers import UNet2DModel
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from trainer.components import load_components
from trainer.config_io import load_config
from trainer.likeness import COARSE_PX, HeldOut, coarse, latents, likeness, read_held_out

from .data import Pictures, compose, picture
from .files import Failure
from .profile import Workshop
from .training import Plan, half_precision, train

STEPS, BATCH, RATE = 1500, 24, 4e-3
WIDTHS = (32, 64, 128)
SETS = ("selection", "held-out")


class Restyle(nn.Module):
    """A flat picture, (n, 3, h, w) in -1..1, as it might be in 3D."""

    def __init__(self) -> None:
        super().__init__()
        count = len(WIDTHS)
        self.change = UNet2DModel(
            in_channels=3, out_channels=3, block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D",) * count, up_block_types=("UpBlock2D",) * count, add_attention=False,
        )  # fmt: skip

    def forward(self, flat: Tensor) -> Tensor:
        return flat + self.change(flat, 0).sample


def limit(shop: Workshop) -> None:
    """Train it, and print how near it comes."""
    truths = {name: read_held_out(shop.assets / "samples" / name) for name in SETS}
    pictures, px = Pictures.load(shop.work), shop.profile.picture_px
    hidden = {truth.caption.split(" on a")[0] for own in truths.values() for truth in own}
    shown = [i for i, concept in enumerate(pictures.concepts) if concept.phrase not in hidden]
    if len(shown) != len(pictures.concepts) - len(hidden):
        raise Failure(f"{shop.assets / 'samples'} has things that {shop.work} lacks: run the stage `samples` again.")

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """As far from the true pictures as the measures see it, and a little as the eye does."""
        things = [shown[n] for n in torch.randint(len(shown), (BATCH,), generator=random)]
        colours = torch.rand(BATCH, 3, generator=random)
        drawn = (style[things].float() / 255 for style in (pictures.flat, pictures.solid))
        given, wanted = (_shrunk(compose(each, colours).to(shop.device), px) for each in drawn)
        if step % 2:
            given, wanted = given.flip(3), wanted.flip(3)
        with half_precision(shop.device):
            made = network(given).float()
        value = mse_loss(_shrunk(made, COARSE_PX), _shrunk(wanted, COARSE_PX)) + 0.3 * mse_loss(made, wanted)
        return value, {"loss": value.item()}

    torch.manual_seed(shop.seed)
    network = Restyle().to(shop.device)
    train("limit", network, loss, Plan(STEPS, RATE, shop.seed, shop.device), shop.work / "limit.pt")
    _print(network, truths, px, shop.device)


def _shrunk(drawn: Tensor, px: int) -> Tensor:
    return interpolate(drawn, size=px, mode="area")


def _print(network: nn.Module, truths: dict[str, list[HeldOut]], px: int, device: str) -> None:
    components = load_components(load_config("starter-lora", ["data.folder=."]).model)
    table = Table("things", "measure", "nearer to 3D, %", "closeness")
    for name, own in truths.items():
        drawn = [_restyled(network, truth.flat, px, device) for truth in own]
        for measure, seen in {"16 x 16 px": coarse(components), "latents": latents(components, px)}.items():
            found = likeness(drawn, own, seen)
            near = 100 * fmean(one.is_nearer for one in found)
            table.add_row(name, measure, f"{near:.0f}", f"{fmean(one.closeness for one in found):.3f}")
    Console().print(table)


@torch.no_grad()
def _restyled(network: nn.Module, flat: Image.Image, px: int, device: str) -> Image.Image:
    pixels = torch.from_numpy(np.asarray(flat.resize((px, px), Image.Resampling.BOX)).copy())
    return picture(network(pixels.permute(2, 0, 1)[None].to(device) / 127.5 - 1)[0].cpu())
