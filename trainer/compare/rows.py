"""The rows of a comparison: every prompt with every seed, number of steps and guidance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product

from trainer.base_files import look_up
from trainer.base_weights import BaseModel
from trainer.build import NoPicturesError, first_caption
from trainer.compare.request import Request, RequestError
from trainer.config import RunConfig
from trainer.config_sections import SampleConfig
from trainer.data.wording import plain
from trainer.shot import Shot

Sizes = tuple[int, int]


def choose_rows(request: Request, config: RunConfig | None, phrase: str | None, base: BaseModel) -> list[Shot]:
    """What was asked for, the rest as `config` draws samples; `phrase`: what to draw where there is no config.

    Raises RequestError where nothing says what to draw.
    """
    sample = SampleConfig() if config is None else config.sample
    prompts = request.prompts or _own_prompts(config, phrase)
    negative = sample.negative if request.negative is None else request.negative
    width, height = request.size_px or _own_size(config, base)
    return [
        Shot(prompt, negative, seed, steps, guidance, width, height)
        for number, prompt in enumerate(prompts)
        for seed, steps, guidance in product(
            request.seeds or (sample.seed + number,),
            request.steps or (sample.steps,),
            request.guidance or (sample.guidance,),
        )
    ]


def labels(shots: Sequence[Shot]) -> list[str]:
    """The prompts, with whatever else differs between rows of one prompt."""
    named: tuple[tuple[Callable[[Shot], float], str], ...] = (
        (lambda shot: shot.seed, "seed {:g}"),
        (lambda shot: shot.steps, "{:g} steps"),
        (lambda shot: shot.guidance, "guidance {:g}"),
    )
    first = [shot for shot in shots if shot.prompt == shots[0].prompt]
    shown = [(value, words) for value, words in named if len({value(shot) for shot in first}) > 1]
    return [", ".join([shot.prompt, *(words.format(value(shot)) for value, words in shown)]) for shot in shots]


def _own_prompts(config: RunConfig | None, phrase: str | None) -> tuple[str, ...]:
    if config is not None:
        data = config.data
        own = plain(data.instance_prompt, data) if data.instance_prompt else _first_caption(config)
        return config.sample.prompts or (own,)
    if phrase is None:
        raise RequestError("Nothing says what to draw: no prompt was given, and the files name none.", "Give --prompt.")
    return (phrase,)


def _first_caption(config: RunConfig) -> str:
    try:
        return first_caption(config.data)
    except (NoPicturesError, OSError) as error:
        raise RequestError(
            f"The run has no sample prompts, and its pictures in {config.data.folder} are not there.", "Give --prompt."
        ) from error


def _own_size(config: RunConfig | None, base: BaseModel) -> Sizes:
    """Of the run's samples; without a run, the one that the base model was made for."""
    if config is not None:
        side = config.data.resolution_px
        return config.sample.size_px or (side, side)
    facts = look_up(str(base.path))
    side = base.modules.family.resolution_px[facts.prediction or "epsilon"]
    if base.path.is_dir():
        latent = json.loads((base.path / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"]
        side = latent * facts.latent_factor
    return side, side
