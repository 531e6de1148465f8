"""Pictures drawn with fixed seeds, and their folders."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dora_core.atomic import replace
from trainer.components import Components, Pipeline
from trainer.faults import crash_point
from trainer.shot import Shot

UNFINISHED = ".tmp-"
Report = Callable[[int, int], None]  # done, total


@torch.no_grad()
def draw_picture(components: Components, shot: Shot) -> Image.Image:
    """With the pipeline's own scheduler; decoded in the VAE's precision, whatever the UNet's is.

    Prompts are encoded as captions are: diffusers' own `clip_skip` leaves the negative prompt as it is, ComfyUI's does
    not.
    """
    pipeline = components.pipeline
    positive, negative = components.conditioning([shot.prompt]), components.conditioning([shot.negative])
    pooled: dict[str, Any] = {}
    if positive.pooled is not None:
        pooled = {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    generator = torch.Generator().manual_seed(shot.seed)
    drawn = pipeline(
        prompt_embeds=positive.hidden,
        negative_prompt_embeds=negative.hidden,
        **pooled,
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        width=shot.width,
        height=shot.height,
        generator=generator,
        latents=start_noise(pipeline, shot, generator),
        output_type="latent",
        return_dict=False,
    )
    latents = cast(Tensor, drawn[0])  # the hint is about pictures; this is what "latent" gives
    vae = pipeline.vae
    unscaled = latents.to(vae.dtype) / vae.config["scaling_factor"] + (vae.config["shift_factor"] or 0)
    decoded = vae.decode(unscaled, return_dict=False)[0]
    return cast(list[Image.Image], pipeline.image_processor.postprocess(decoded, output_type="pil"))[0]


def start_noise(pipeline: Pipeline, shot: Shot, generator: torch.Generator) -> Tensor:
    """(1, channels, height / f, width / f): what ComfyUI's KSampler begins with for the same seed and size.

    Drawn in float32 and on the CPU whatever the model's precision and device; half precision draws other numbers.
    """
    factor = pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config["in_channels"], shot.height // factor, shot.width // factor)
    return torch.randn(shape, generator=generator).to(pipeline.text_encoder.dtype)


def samples_folder(samples: Path, step: int) -> Path:
    return samples / f"step-{step:06d}"


def draw_samples(
    components: Components, shots: Sequence[Shot], folder: Path, report: Report = lambda done, total: None
) -> None:
    """One PNG per shot and samples.json, which names them; `folder` appears whole, in place of an older one.

    FileNotFoundError where what the folder's parent lies in is gone.
    """
    temporary = folder.with_name(f"{UNFINISHED}{folder.name}-{secrets.token_hex(4)}")
    folder.parent.mkdir(exist_ok=True)
    temporary.mkdir()  # no parents: a run that was moved away meanwhile is not made again
    try:
        rows = []
        for number, shot in enumerate(shots):
            report(number, len(shots))
            name = f"{number:02d}.png"
            save_png(draw_picture(components, shot), shot, temporary / name)
            rows.append({"file": name, **asdict(shot)})
        (temporary / "samples.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        crash_point("samples.drawn")
        with tempfile.TemporaryDirectory(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent) as away:
            if folder.exists():  # by a rename, so that nobody finds half of the older one
                os.replace(folder, Path(away) / folder.name)
            replace(temporary, folder)
        crash_point("samples.promoted")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_unfinished(samples: Path) -> None:
    """What a killed process left of its samples; for who holds the run, as nobody else draws those of its steps."""
    for left in samples.glob(f"{UNFINISHED}step-*"):
        shutil.rmtree(left)


def save_png(picture: Image.Image, shot: Shot, file: Path | BinaryIO) -> None:
    """With all that is needed to draw it again in its metadata."""
    info = PngInfo()
    info.add_text("dora_studio", json.dumps(asdict(shot)))
    picture.save(file, format="PNG", pnginfo=info)
