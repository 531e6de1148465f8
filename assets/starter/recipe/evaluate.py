"""Stage `evaluate`: the scores of the packed model, each between its floor and its ceiling, and the contact sheet.

Nothing here is picked: things, colours and noise are drawn by a seed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from .captions import caption
from .data import Pictures, picture
from .files import Failure, write_text
from .pack import up_to_date
from .profile import COLOURS, Profile, Workshop
from .unet import build_text_encoder, build_unet, learned_things
from .vae import HELD_OUT_EVERY

STEPS, GUIDANCE = 20, 2.0
SCORED = 100  # things, each recomposed on the asked background


@dataclass(frozen=True)
class Score:
    """A number with what an ignorant model would get and what a perfect denoiser could get; None: has none."""

    name: str
    value: float
    floor: float | None
    ceiling: float | None
    goal: str


def evaluate(shop: Workshop) -> None:
    """Print and save the scores and the contact sheet: `evaluation.json`, `contact-sheet.jpg` in ``starter/``."""
    target, profile, seed = shop.assets / "starter", shop.profile, shop.seed
    if up_to_date(target / "evaluation.json", shop):
        return
    if not (target / "model_index.json").exists():
        raise Failure(f"{target} holds no model yet: run the stage `pack` first.")
    pipeline = StableDiffusionPipeline.from_pretrained(target, local_files_only=True).to(shop.device)  # what ships
    pipeline.set_progress_bar_config(disable=True)
    pictures = Pictures.load(shop.work)
    things = learned_things(pictures, profile)
    asked = _asked(things, SCORED, seed)
    true = torch.stack([pictures.draw("flat", i, COLOURS[c], profile.picture_px) for i, c in asked])
    captions = [caption(pictures.concepts[i], c) for i, c in asked]
    began = time.perf_counter()
    drawn = draw(pipeline, captions, seed)
    seconds = (time.perf_counter() - began) / len(captions)
    ignorant = draw(_untrained(pipeline, profile, seed), captions, seed)
    ceiling = through(pipeline.vae, true)
    colours = [c for _, c in asked]
    by_colour = {colour: _on_one_background(pictures, asked, colour, profile.picture_px) for colour in COLOURS}

    def judge(name: str, measure: Callable[[Tensor], float], goal: str) -> Score:
        return Score(name, *(measure(x) for x in (drawn, ignorant, ceiling)), goal)

    scores = [
        *_reconstruction(pipeline.vae, pictures, profile, seed),
        judge("background colour right, %", lambda x: 100 * background_right(x, colours), ">= 95"),
        judge(
            "concept right at 16x16 pixels, %",
            lambda x: 100 * nearest_right(x, colours, by_colour, _thumbnails),
            ">= 70",
        ),
        judge(
            "concept right in latent space, %",
            lambda x: 100 * nearest_right(x, colours, by_colour, lambda p: encode(pipeline.vae, p).flatten(1)),
            ">= 70",
        ),
        Score(f"seconds per picture, {STEPS} steps, {torch.get_num_threads()} threads", seconds, None, None, "<= 1"),
    ]
    write_text(target / "evaluation.json", json.dumps([asdict(s) for s in scores], indent=1) + "\n")
    contact_sheet(pipeline, pictures, things, profile, seed).save(target / "contact-sheet.jpg", quality=90)
    show(scores)


def show(scores: list[Score]) -> None:
    table = Table("score", "value", "floor", "ceiling", "goal")
    for s in scores:
        table.add_row(s.name, *("-" if v is None else f"{v:.2f}" for v in (s.value, s.floor, s.ceiling)), s.goal)
    Console().print(table)


@torch.no_grad()
def draw(pipeline: StableDiffusionPipeline, captions: list[str], seed: int, batch: int = 20) -> Tensor:
    """(n, 3, px, px), -1..1; picture i has its own noise, from (seed, i)."""
    drawn: list[Tensor] = []
    for first in tqdm(range(0, len(captions), batch), desc="draw", unit="batch"):
        some = captions[first : first + batch]
        noise = [torch.Generator().manual_seed(seed + first + i) for i in range(len(some))]
        kind = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
        drawn.append(pipeline(some, generator=noise, **kind).images.float().cpu() * 2 - 1)
    return torch.cat(drawn)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    return vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu()


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures encoded and decoded again, clipped as a saved file would be."""
    latents = encode(vae, pictures).to(vae.device, vae.dtype)
    return vae.decode(latents).sample.float().cpu().clamp(-1, 1)


def psnr(drawn: Tensor, true: Tensor) -> float:
    """Mean over the pictures of 10 log10(4 / mse), for values in -1..1."""
    return (10 * torch.log10(4 / (drawn - true).square().flatten(1).mean(1))).mean().item()


def background_right(drawn: Tensor, colours: list[str]) -> float:
    """Share of the pictures whose border's median is nearest, of the palette, to the asked colour."""
    border = torch.cat([drawn[:, :, 0], drawn[:, :, -1], drawn[:, :, :, 0], drawn[:, :, :, -1]], dim=2).median(2).values
    palette = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    found = torch.cdist(border, palette).argmin(1)
    return (found == torch.tensor([list(COLOURS).index(c) for c in colours])).float().mean().item()


def nearest_right(
    drawn: Tensor, colours: list[str], recomposed: dict[str, Tensor], features: Callable[[Tensor], Tensor]
) -> float:
    """Share of the pictures that are nearest, of all things on that background, to the true picture of their own."""
    right = 0
    table = {colour: features(candidates) for colour, candidates in recomposed.items()}
    for index, (feature, colour) in enumerate(zip(features(drawn), colours, strict=True)):
        right += int(torch.cdist(feature[None], table[colour]).argmin()) == index
    return right / len(colours)


def contact_sheet(
    pipeline: StableDiffusionPipeline, pictures: Pictures, things: list[int], profile: Profile, seed: int
) -> Image.Image:
    """32 prompts, the true picture left of the drawn one."""
    asked = _asked(things, 32, seed + 1)
    drawn = draw(pipeline, [caption(pictures.concepts[i], c) for i, c in asked], seed + 1)
    side, text, columns = 96, 26, 4
    sheet = Image.new("RGB", (columns * (2 * side + 14) + 14, 8 * (side + text + 10) + 10), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for number, (index, colour) in enumerate(asked):
        x, y = 14 + number % columns * (2 * side + 14), 10 + number // columns * (side + text + 10)
        true = pictures.draw("flat", index, COLOURS[colour], profile.picture_px)
        for offset, image in ((0, true), (side, drawn[number])):
            sheet.paste(picture(image).resize((side, side), Image.Resampling.LANCZOS), (x + offset, y))
        words = caption(pictures.concepts[index], colour).split(" on a")
        pen.text((x, y + side + 1), words[0], fill="black", font=font)
        pen.text((x, y + side + 12), "on a" + words[-1], fill="black", font=font)
    return sheet


def _asked(things: list[int], count: int, seed: int) -> list[tuple[int, str]]:
    drawn = random.Random(seed)
    count = min(count, len(things))
    return [(thing, drawn.choice(list(COLOURS))) for thing in drawn.sample(things, count)]


def _on_one_background(pictures: Pictures, asked: list[tuple[int, str]], colour: str, px: int) -> Tensor:
    return torch.stack([pictures.draw("flat", i, COLOURS[colour], px) for i, _ in asked])


def _thumbnails(drawn: Tensor) -> Tensor:
    return interpolate(drawn, size=16, mode="area").flatten(1)


def _untrained(pipeline: StableDiffusionPipeline, profile: Profile, seed: int) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    parts = {"unet": build_unet(profile), "text_encoder": build_text_encoder(profile, pipeline.tokenizer)}
    other = StableDiffusionPipeline(**{**pipeline.components, **parts}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other.to(pipeline.device)


def _reconstruction(vae: AutoencoderKL, pictures: Pictures, profile: Profile, seed: int) -> list[Score]:
    """PSNR of things the autoencoder met on other backgrounds and sizes, and of things that it never met."""
    drawn = random.Random(seed)
    groups = {"compositions": 0, "things": 1}
    scores: list[Score] = []
    for kind, unseen in groups.items():
        indices = [i for i in range(len(pictures.concepts)) if (i % HELD_OUT_EVERY == 0) == bool(unseen)]
        for style in ("flat", "3d"):
            some = [(drawn.choice(indices), [drawn.randrange(256) for _ in range(3)]) for _ in range(SCORED)]
            true = torch.stack([pictures.draw(style, i, c, profile.picture_px) for i, c in some])
            mean = true.mean((2, 3), keepdim=True).expand_as(true)  # floor: the picture's own average colour
            scores.append(
                Score(
                    f"PSNR of unseen {kind}, {style}, dB",
                    psnr(through(vae, true), true),
                    psnr(mean, true),
                    None,
                    ">= 28",
                )
            )
    return scores
