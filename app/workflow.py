"""A ComfyUI workflow that draws what a grid shows: base model, adapter, prompt and seed, in ComfyUI's API format.

The noise is the same: a seed of ours is what ComfyUI's KSampler makes of it. The steps in between are the nearest that
ComfyUI has to the base model's own scheduler. The format is what ComfyUI's "Export (API)" writes; its page opens it as
a file, and from the text chunk "prompt" of a PNG.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.base_choices import schedule_changes
from trainer.base_files import BaseFacts, configs_beside
from trainer.released import released_scheduler
from trainer.shot import Shot

RELEASED_WIDTH = 320  # channels of the first layer in every released UNet of the families that we know
# scheduler of diffusers -> sampler and schedule of ComfyUI
SAMPLERS = {
    "DDIMScheduler": ("ddim", "ddim_uniform"),
    "EulerDiscreteScheduler": ("euler", "normal"),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", "normal"),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "normal"),
    "UniPCMultistepScheduler": ("uni_pc", "normal"),
}
ELSE = ("dpmpp_2m", "karras")


@dataclass(frozen=True)
class Workflow:
    """`nodes` by number, as ComfyUI has them; `notes`: what to do or to expect, in sentences."""

    nodes: dict[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(self.nodes, indent=1, ensure_ascii=False)


def why_not(base: BaseFacts) -> str:
    """Why ComfyUI cannot draw with this base model, in a sentence; empty: it can."""
    width = base.shapes.get("unet.conv_in", (0,))[0]
    if base.family is None or width == 0:
        return f"What kind of model {base.name} is cannot be told, so there is no workflow for it."
    if width != RELEASED_WIDTH:
        return (
            f"ComfyUI loads models of the released sizes only; {base.name} is smaller, so there is no workflow for it."
        )
    return ""


def workflow(
    base: BaseFacts,
    adapter: str,
    shot: Shot,
    strength: float = 1.0,
    *,
    clip_skip: int | None = None,
    vae: str | None = None,
) -> Workflow:
    """The graph for an adapter file of that name in ComfyUI's folder models/loras.

    `clip_skip` and `vae` as in the settings of the model.
    """
    scheduler = _scheduler(base)
    (sampler, schedule), is_known = _sampler(scheduler)
    loader, loader_note = _loader(base)
    nodes: dict[str, Any] = {
        "1": loader,
        "2": _node(
            "LoraLoader",
            lora_name=adapter,
            strength_model=strength,
            strength_clip=strength,
            model=["1", 0],
            clip=["1", 1],
        ),
        "3": _node("CLIPTextEncode", text=shot.prompt, clip=["2", 1]),
        "4": _node("CLIPTextEncode", text=shot.negative, clip=["2", 1]),
        "5": _node("EmptyLatentImage", width=shot.width, height=shot.height, batch_size=1),
        "6": _node(
            "KSampler",
            seed=shot.seed,
            steps=shot.steps,
            cfg=shot.guidance,
            sampler_name=sampler,
            scheduler=schedule,
            denoise=1.0,
            model=["2", 0],
            positive=["3", 0],
            negative=["4", 0],
            latent_image=["5", 0],
        ),
        "7": _node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": _node("SaveImage", filename_prefix=Path(adapter).stem, images=["7", 0]),
    }
    if base.prediction == "v":
        nodes["9"] = _node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=base.ends_in_noise, model=["2", 0])
        nodes["6"]["inputs"]["model"] = ["9", 0]
    if clip_skip is not None:
        nodes["10"] = _node("CLIPSetLastLayer", stop_at_clip_layer=-clip_skip, clip=["2", 1])
        nodes["3"]["inputs"]["clip"] = nodes["4"]["inputs"]["clip"] = ["10", 0]
    notes = [f"Put {adapter} into ComfyUI's folder models/loras.", loader_note]
    if vae is not None:
        name = f"{Path(vae).name.removesuffix('.safetensors')}.safetensors"
        nodes["11"] = _node("VAELoader", vae_name=name)
        nodes["7"]["inputs"]["vae"] = ["11", 0]
        notes.append(f"Put the weights of the VAE {vae} into ComfyUI's folder models/vae, as {name}.")
    if not is_known:
        notes.append(f"ComfyUI does not have the base model's scheduler: {sampler} with {schedule} comes near it.")
    return Workflow(nodes, tuple(note for note in notes if note))


def embedded(picture: Path, drawn_by: Workflow) -> bytes:
    """The picture as a PNG that ComfyUI opens as the workflow."""
    info = PngInfo()
    info.add_text("prompt", json.dumps(drawn_by.nodes))
    out = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").save(out, "PNG", pnginfo=info)
    return out.getvalue()


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _loader(base: BaseFacts) -> tuple[dict[str, Any], str]:
    """The node that loads the base model, and what has to be done by hand for it."""
    path = Path(base.name).expanduser()
    if path.is_file():
        note = f"Put {path.name} into ComfyUI's folder models/checkpoints."
        return _node("CheckpointLoaderSimple", ckpt_name=path.name), note
    if path.is_dir():
        return _node(
            "DiffusersLoader", model_path=path.name
        ), f"Put {path.name} into ComfyUI's folder models/diffusers."
    name = base.name.rpartition("/")[2]
    note = f"Choose your checkpoint of {base.name} in the first node."
    return _node("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors"), note


def _scheduler(base: BaseFacts) -> Mapping[str, Any]:
    """The config of what the pictures were drawn with; empty for a model that is not on this machine."""
    if base.path is None or base.family is None:
        return {}
    folder = base.path if base.path.is_dir() else configs_beside(base.path)
    file = Path() if folder is None else folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else released_scheduler(base.family)
    changes = schedule_changes(config, base)
    return config | changes | {"_class_name": "DDIMScheduler"} if changes else config


def _sampler(scheduler: Mapping[str, Any]) -> tuple[tuple[str, str], bool]:
    """ComfyUI's sampler and schedule, and whether they are those of the model's scheduler."""
    found = SAMPLERS.get(scheduler.get("_class_name", ""))
    if found is None:
        return ELSE, False
    return (found[0], "karras" if scheduler.get("use_karras_sigmas") else found[1]), True
