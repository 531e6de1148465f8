"""One cell of the bench of quality: an adapter trained by the settings that users get, and what it scores."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import torch
from PIL import Image

from dora_core.atomic import atomic_write
from dora_core.injection import eject
from dora_core.version import __version__
from trainer.build import build_datasets, build_text, build_training, build_validation
from trainer.components import Components, load_components
from trainer.compute import Compute, choose_compute
from trainer.config import RunConfig
from trainer.config_io import load_config
from trainer.data.latents import LatentCache
from trainer.data.tensor_cache import TensorCache, cache_key
from trainer.events import PhaseName
from trainer.home import Home
from trainer.likeness import HeldOut, Likeness, latents, likeness, read_held_out
from trainer.loop import take_step
from trainer.sampling import draw_picture
from trainer.shot import Shot
from trainer.training import Training, validation_losses

SAMPLES = Path(__file__).parent.parent.parent / "assets" / "samples"
PRESET = "starter-lora"
SETTINGS = (
    f"data.folder={SAMPLES / 'icons3d'}",
    "data.instance_prompt=3d style",
    "train.precision=fp32",
    "train.validation_every_steps=0",
    "sample.guidance=3.0",
)
Things = Literal["selection", "held-out"]


@dataclass(frozen=True)
class Score:
    """Means over the things that were drawn."""

    closeness: float
    lean: float
    nearer: float  # share of the pictures
    loss: float  # not a number: of pictures that no model drew
    parameters: int = 0


@dataclass(frozen=True)
class Studio:
    """The loaded starter, and the home in whose cache scores are kept; `pictures`: how many things are drawn."""

    components: Components
    compute: Compute
    home: Home
    pictures: int

    @classmethod
    def open(cls, home: Home, pictures: int) -> Studio:
        config = load_config(PRESET, SETTINGS)
        compute = choose_compute(config.train.precision)
        components = load_components(config.model, dtype=compute.dtype, device=compute.device)
        return cls(components, compute, home, pictures)

    @cached_property
    def truths(self) -> Mapping[Things, Sequence[HeldOut]]:
        names: tuple[Things, ...] = ("selection", "held-out")
        return {name: read_held_out(SAMPLES / name)[: self.pictures] for name in names}

    def score(self, things: Things, settings: Sequence[str]) -> Score:
        """After a training with `settings` on top of the preset's, or as it is known from before."""
        config = load_config(PRESET, (*SETTINGS, *settings))
        said = config.model_dump(mode="json", exclude={"data": {"folder"}})
        key = cache_key("quality 1", __version__, self.components.fingerprint, said, things, self.pictures)
        file = self.home.path / "bench" / "quality" / f"{key[:24]}.json"
        if file.is_file():
            return Score(**json.loads(file.read_bytes()))
        score = self._score(config, things)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as written:
            written.write(json.dumps(asdict(score)).encode())
        return score

    def floor(self, things: Things) -> Score:
        """Of the base model."""
        return self._score(load_config(PRESET, SETTINGS), things, is_trained=False)

    def ceiling(self, things: Things) -> Score:
        """Of the true 3D pictures, coded and decoded."""
        vae, truths, processor = self.components.vae, self.truths[things], self.components.pipeline.image_processor
        seen = latents(self.components, load_config(PRESET, SETTINGS).data.resolution_px)
        drawn: list[Image.Image] = []
        for truth in truths:
            unscaled = seen(truth.solid) / vae.config["scaling_factor"] + (vae.config["shift_factor"] or 0)
            with torch.no_grad():
                decoded = vae.decode(unscaled, return_dict=False)[0]
            drawn += cast(list[Image.Image], processor.postprocess(decoded, output_type="pil"))
        return mean_score(likeness(drawn, truths, seen), math.nan)

    def _score(self, config: RunConfig, things: Things, is_trained: bool = True) -> Score:
        training = build_training(config, self.components, self.compute, self.home, _silent)
        try:
            for step in range(1, training.steps + 1 if is_trained else 1):
                take_step(training, step)
            return self._measured(config, training, things)
        finally:
            for part in training.adapters:
                eject(self.components.models[part])

    def _measured(self, config: RunConfig, training: Training, things: Things) -> Score:
        """Of the model as it is, with the adapter in it."""
        truths, side, sample = self.truths[things], config.data.resolution_px, config.sample
        shots = [
            Shot(truth.caption, sample.negative, seed, sample.steps, sample.guidance, side, side)
            for seed, truth in enumerate(truths)
        ]
        with training.evaluating():
            drawn = [draw_picture(self.components, shot) for shot in shots]
        found = likeness(drawn, truths, latents(self.components, side))
        parameters = sum(p.numel() for adapter in training.adapters.values() for p in adapter.parameters())
        return replace(mean_score(found, self._true_loss(training, things)), parameters=parameters)

    def _true_loss(self, training: Training, things: Things) -> float:
        """On the true 3D pictures, with the same noise whatever was trained."""
        folder = self.home.path / "bench" / "true-pictures" / things
        write_true_pictures(SAMPLES / things, folder)
        config = load_config(PRESET, (*SETTINGS, f"data.folder={folder}", f"train.validation_pictures={self.pictures}"))
        cache = TensorCache(self.home.path / "cache")
        encoded = LatentCache(self.components.vae, self.components.fingerprint, config.data.background, cache)
        datasets = build_datasets(config, self.components, encoded, self.home, _silent)
        denoiser = replace(training.denoiser, text=build_text(config, self.components, datasets, cache))
        validation = build_validation(config, datasets[0], len(denoiser.schedule.alphas_bar))
        return validation_losses(replace(training, denoiser=denoiser, validation=validation))[0]


def write_true_pictures(pairs: Path, folder: Path) -> None:
    """The 3D ones of a folder of pairs as a set of their own, captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for text in pairs.glob("*.txt"):
        (folder / text.name).write_bytes(text.read_bytes())
        (folder / f"{text.stem}.jpg").write_bytes(text.with_suffix(".3d.jpg").read_bytes())


def mean_score(found: Sequence[Likeness], loss: float) -> Score:
    return Score(
        closeness=statistics.fmean(one.closeness for one in found),
        lean=statistics.fmean(one.lean for one in found),
        nearer=statistics.fmean(one.is_nearer for one in found),
        loss=loss,
    )


def _silent(phase: PhaseName, done: int, total: int) -> None:
    pass
