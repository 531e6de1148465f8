"""A base model with its parts: from a diffusers folder, a name on the Hugging Face hub, or one .safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from dora_core.errors import FileFormatError
from dora_core.families import Family
from trainer.base_choices import as_chosen, clip_skip_refusal, schedule_changes, vae_refusal
from trainer.base_files import BaseFacts, locate, look_up
from trainer.config_sections import ModelConfig
from trainer.diffusion import NoiseSchedule, noise_schedule
from trainer.failures import ExplainedError, Failure, classify
from trainer.single_file import config_folder, load_checkpoint, load_vae
from trainer.text import Conditioning, encode, tokenize

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
PIPELINES: Mapping[str, type[StableDiffusionPipeline] | type[StableDiffusionXLPipeline]] = {
    "sd1": StableDiffusionPipeline,
    "sd2": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
}


class NotFetchedError(ExplainedError):
    """A model that could not be had from the hub; its category is that of what was in the way."""

    def __init__(self, sentence: str, why: Failure) -> None:
        super().__init__(f"{sentence} {why.sentence}", why.fix)
        self.category = why.category


@dataclass(frozen=True)
class Components:
    """A loaded base model. `path`: the folder or file its weights came from; `left_out`: layers, see text.encode."""

    family: Family
    path: Path
    pipeline: Pipeline
    left_out: int = 0

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.pipeline.unet

    @property
    def vae(self) -> AutoencoderKL:
        return self.pipeline.vae

    @cached_property
    def text_encoders(self) -> dict[str, CLIPTextModel]:
        """``text_encoder`` and, where the family has it, ``text_encoder_2``."""
        names = [component.name for component in self.family.components if component.name != "unet"]
        return {name: getattr(self.pipeline, name) for name in names}

    @cached_property
    def tokenizers(self) -> dict[str, CLIPTokenizer]:
        """By the name of the text encoder that reads their tokens."""
        return {name: getattr(self.pipeline, name.replace("text_encoder", "tokenizer")) for name in self.text_encoders}

    @property
    def models(self) -> dict[str, nn.Module]:
        """What can be adapted, under the families' names."""
        return {"unet": self.unet, **self.text_encoders}

    @property
    def commit(self) -> str | None:
        """Of a model from the hub."""
        return self.path.name if self.path.parent.name == "snapshots" else None

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        return encode(self.family.name, self.text_encoders, tokenize(self.tokenizers, captions), self.left_out)

    def noise_schedule(self) -> NoiseSchedule:
        return noise_schedule(self.pipeline.scheduler.config)

    @cached_property
    def fingerprint(self) -> str:
        """Tells base models apart wherever they lie: from the names, shapes and first values of all weights.

        Taken before an adapter is injected; a full hash of an SDXL checkpoint would take as long as loading it.
        """
        return weights_fingerprint({**self.models, "vae": self.vae})

    @property
    def drawing_fingerprint(self) -> str:
        """Tells apart what would draw other pictures of the same shot: weights, scheduler, layers left out."""
        config = self.pipeline.scheduler.config
        scheduler = sorted((key, config[key]) for key in config if key == "_class_name" or not key.startswith("_"))
        return hashlib.sha256(repr((self.fingerprint, self.left_out, scheduler)).encode()).hexdigest()[:32]


def weights_fingerprint(models: Mapping[str, nn.Module], values_per_tensor: int = 64) -> str:
    digest = hashlib.sha256()
    for component, model in models.items():
        for name, value in model.state_dict().items():
            first = value.flatten()[:values_per_tensor].float().cpu().numpy().tobytes()
            digest.update(f"{component}.{name}:{tuple(value.shape)};".encode() + first)
    return digest.hexdigest()[:32]


def load_components(
    model: ModelConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Components:
    """Every part on `device` in `dtype`, frozen, in evaluation mode; the VAE in float32, as SDXL's overflows float16.

    FileFormatError where `model.base` is nothing that can be used, NotFetchedError where it cannot be had.
    """
    path = locate(model.base) or _fetch(model.base, model.revision)
    facts = as_chosen(look_up(str(path)), model)
    if refusal := vae_refusal(model.vae, facts) or clip_skip_refusal(model.clip_skip, facts):
        raise FileFormatError(refusal)
    family = facts.family
    assert family is not None  # as its files are here
    pipeline = _load_folder(path, family, dtype) if path.is_dir() else _load_file(path, family, dtype)
    if model.vae is not None:
        pipeline.register_modules(vae=_other_vae(model.vae, path, family))
    _set_schedule(pipeline, facts)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    left_out = 0 if model.clip_skip is None else model.clip_skip - family.clip_skip
    components = Components(family, path, pipeline, left_out)
    for part in (*components.models.values(), components.vae):
        part.requires_grad_(False).eval()
    return components


def _fetch(name: str, revision: str | None) -> Path:
    """A copy of the model on the hub, its .safetensors files only, downloaded once. Raises NotFetchedError."""
    try:
        return Path(DiffusionPipeline.download(name, revision=revision, use_safetensors=True))
    except Exception as error:
        raise NotFetchedError(f"The base model {name!r} could not be fetched.", classify(error)) from error


def _set_schedule(pipeline: Pipeline, facts: BaseFacts) -> None:
    """Let the scheduler, which samples are drawn with too, be what the user says, else what the model's files say."""
    config = dict(pipeline.scheduler.config)
    if changes := schedule_changes(config, facts):  # DDIM's config has words for all of these
        pipeline.register_modules(scheduler=DDIMScheduler.from_config(config | changes))


def _load_folder(path: Path, family: Family, dtype: torch.dtype) -> Pipeline:
    kind = PIPELINES[family.name]
    return kind.from_pretrained(
        path, dtype={"vae": torch.float32, "default": dtype}, use_safetensors=True, **_unused_parts(kind)
    )


def _load_file(path: Path, family: Family, dtype: torch.dtype) -> Pipeline:
    kind = PIPELINES[family.name]
    return kind(**load_checkpoint(path, family, dtype), **_unused_parts(kind))


def _other_vae(name: str, base: Path, family: Family) -> AutoencoderKL:
    """In float32: from a file, with the base model's own config of a VAE; from a folder; or from the hub."""
    path = locate(name)
    if path is not None and path.is_file():
        with nullcontext(base) if base.is_dir() else config_folder(base, family) as configs:
            return load_vae(path, configs)
    try:
        return AutoencoderKL.from_pretrained(path or name, use_safetensors=True)
    except OSError as error:  # of which those of the hub are
        raise NotFetchedError(f"The VAE {name!r} could not be had.", classify(error)) from error


def _unused_parts(kind: type[Pipeline]) -> dict[str, Any]:
    """Parts that are neither trained nor needed to draw: not loaded where the pipeline knows them."""
    if kind is StableDiffusionXLPipeline:
        return {}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
