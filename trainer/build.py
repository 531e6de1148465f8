"""From settings to what the loop works on: the only torch-side file whose functions take the whole RunConfig."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dora_core.adapter import Adapter
from dora_core.injection import inject
from trainer.adapter_specs import adapter_specs
from trainer.components import Components
from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.config_data import DataConfig, ImageSetConfig, PriorConfig
from trainer.config_sections import Precision
from trainer.data.dataset import BatchOrder, Dataset, Example, Purpose, bucket_groups, make_examples
from trainer.data.latents import LatentCache
from trainer.data.report import report_dataset
from trainer.data.scan import scan
from trainer.data.tensor_cache import TensorCache, cache_key
from trainer.data.text_cache import LiveText, TextSource, cache_text
from trainer.data.wording import plain
from trainer.events import PhaseName
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.lean import Aside, checkpoint_blocks, lay_channels_last
from trainer.losses import BANDS
from trainer.noise import Draw
from trainer.optim import PartRate, RatePlan, build_average, build_optimizer
from trainer.priors import complete_class_pictures
from trainer.quantised import quantise
from trainer.sampling import draw_picture
from trainer.schedules import Schedule
from trainer.seeds import generator, seed_of
from trainer.shot import Shot
from trainer.step import Denoiser
from trainer.team import ALONE, Team
from trainer.training import Every, Training, Validation

Report = Callable[[PhaseName, int, int], None]  # phase, done, total
VALIDATION_TIMESTEPS = len(BANDS)  # one in the middle of each

# Settings that a resumed run may change: none of them touches what is trained. Where things lie is told by content.
FREE_SECTIONS = {"name", "config_version", "sample", "save", "log"}
FREE_SETTINGS = {
    *("model.base", "model.vae", "model.revision", "data.prior.folder", "data.prior.count", "data.cache"),
    *("data.folder", "data.mask.source", "data.more.folder", "data.more.mask.source"),
    *("train.steps", "train.twin", "train.checkpointing", "train.checkpointed"),
    *("train.validation_every_steps", "train.validation_pictures"),
}


class BadSetError(ExplainedError):
    """Something of a set is wrong that a plan would have told."""

    category = "bad picture"


class NoPicturesError(ExplainedError):
    """There is nothing to train on."""

    category = "bad picture"


def build_training(
    config: RunConfig, components: Components, compute: Compute, home: Home, report: Report, team: Team = ALONE
) -> Training:
    """Everything that the loop touches; `components` has the adapters in it afterwards."""
    fingerprint = components.fingerprint
    cache = TensorCache(home.path / "cache" if config.data.cache == "disk" else None)
    latents = LatentCache(components.vae, fingerprint, config.data.background, cache)
    datasets = build_datasets(config, components, latents, home, report)
    text = build_text(config, components, datasets, cache)
    adapters = inject_adapters(config, components)
    rates = build_rates(config, tuple(adapters))
    optimizer = build_optimizer(adapters, rates, config.optim)
    for model in components.models.values():
        model.train()
    if config.train.checkpointing:
        checkpoint_blocks(components, config.train.checkpointed)
    if config.train.channels_last:
        lay_channels_last(components.unet)
    schedule = components.noise_schedule()
    denoiser = Denoiser(
        components.family.name, components.unet, adapters, text, schedule, compute.autocast, config.loss
    )
    return Training(
        steps=config.train.steps,
        accumulation=config.train.accumulation,
        seed=config.train.seed,
        clip_norm=config.optim.clip_norm or math.inf,
        datasets=datasets,
        denoiser=denoiser,
        noise=config.noise,
        models=components.models,
        adapters=adapters,
        optimizer=optimizer,
        optimizer_row=config.optim.row,
        rates=rates,
        scaler=compute.make_scaler(),
        validation=build_validation(config, datasets[0], len(schedule.alphas_bar)),
        identity=identity(config, fingerprint, datasets, compute.precision),
        average=build_average(adapters, optimizer, config.optim),
        team=team,
        aside=put_aside(config, components, datasets, compute),
    )


def inject_adapters(config: RunConfig, components: Components) -> dict[str, Adapter]:
    """An adapter per trained part, around the base's weights in the bits that they are trained on.

    The start of a layer depends on the seed, the part and the layer's name alone.
    """
    quantise(components.unet, config.model.bits)
    return {
        part: inject(components.models[part], spec, seed=seed_of(config.train.seed, part, "start"))
        for part, spec in adapter_specs(config.adapter, components.family).items()
    }


def build_rates(config: RunConfig, parts: tuple[str, ...]) -> RatePlan:
    steps = config.train.steps
    text_rate = PartRate(config.optim.text_encoder_rate, round(config.train.text_encoder_stop * steps))
    rates = {part: PartRate(config.optim.rate, steps) if part == "unet" else text_rate for part in parts}
    schedule = config.schedule
    falling = Schedule(schedule.kind, schedule.warmup_steps(steps), steps, schedule.cycles, schedule.decay)
    return RatePlan(falling, rates)


def load_examples(data: DataConfig, sets: Sequence[ImageSetConfig] = ()) -> tuple[Example, ...]:
    """All usable pictures of `sets`, by default of those that are trained. Raises NoPicturesError, BadSetError."""
    return tuple(example for one in sets or data.trained for example in _examples_of(one, data))


def _examples_of(one: ImageSetConfig, data: DataConfig) -> tuple[Example, ...]:
    report = report_dataset(one, data)
    if not report.images.pictures:
        reasons = "; ".join(f"{left.path.name}: {left.reason}" for left in report.images.left_out[:3])
        raise NoPicturesError(
            f"There is no picture that can be used in {one.folder}. {reasons}".strip(),
            "Set data.folder to a folder with pictures.",
        )
    if report.problems:
        raise BadSetError(
            f"The pictures in {one.folder} cannot be trained: {report.problems[0].removesuffix('.')}.",
            "Correct that; dora-studio plan tells of everything that is wrong with every set.",
        )
    return make_examples(report)


def first_caption(data: DataConfig) -> str:
    """What the first picture is called, for samples where nothing else says what to draw."""
    first = load_examples(data)[0]
    return plain(first.caption, first.settings)


def build_datasets(
    config: RunConfig, components: Components, latents: LatentCache, home: Home, report: Report
) -> tuple[Dataset, ...]:
    """The pictures that are trained, those of the class with prior preservation, those that the base is kept on."""
    report("checking", 0, 0)
    groups: list[tuple[Purpose, tuple[Example, ...], float]] = [("instance", load_examples(config.data), 1.0)]
    if config.data.prior is not None:
        examples = load_class_examples(config, config.data.prior, components, home, partial(report, "class pictures"))
        groups.append(("prior", examples, config.data.prior.weight))
    if config.data.kept:
        groups.append(("prior-prediction", load_examples(config.data, config.data.kept), 1.0))
    return tuple(
        Dataset(
            purpose,
            examples,
            latents.encode_all(examples, partial(report, "caching")),
            BatchOrder(bucket_groups(examples), config.train.batch_size, config.train.seed, purpose),
            weight,
        )
        for purpose, examples, weight in groups
    )


def load_class_examples(
    config: RunConfig,
    prior: PriorConfig,
    components: Components,
    home: Home,
    report: Callable[[int, int], None],
) -> tuple[Example, ...]:
    """The class pictures, drawn first where some are missing; all are called by the class prompt."""
    shot = class_shot(config, prior)
    folder = prior.folder or class_folder(home, components.drawing_fingerprint, shot)
    complete_class_pictures(folder, prior.count, shot, partial(draw_picture, components), report)
    images = scan(folder)
    own = ImageSetConfig(folder=folder, instance_prompt=prior.class_prompt, caption_source="prompt")
    few = replace(images, pictures=images.pictures[: prior.count])
    return make_examples(report_dataset(own, config.data, few))


def class_shot(config: RunConfig, prior: PriorConfig) -> Shot:
    side = config.data.resolution_px
    return Shot(prior.class_prompt, config.sample.negative, 0, config.sample.steps, config.sample.guidance, side, side)


def class_folder(home: Home, fingerprint: str, shot: Shot) -> Path:
    """The same for every run that would draw the same pictures."""
    return home.path / "class-pictures" / cache_key("class 2", fingerprint, shot)[:16]


def build_text(
    config: RunConfig, components: Components, datasets: tuple[Dataset, ...], cache: TensorCache
) -> TextSource:
    live = LiveText(components.family.name, components.text_encoders, components.tokenizers, components.left_out)
    if config.adapter.text_encoder:
        return live
    captions = (text for dataset in datasets for texts in dataset.wordings for text in sorted(texts or ()))
    return cache_text(live, captions, components.fingerprint, cache)


def put_aside(config: RunConfig, components: Components, datasets: tuple[Dataset, ...], compute: Compute) -> Aside:
    """The VAE, and the text encoders where every text is kept: moved off the card."""
    is_live = config.adapter.text_encoder or any(None in dataset.wordings for dataset in datasets)
    aside = Aside((components.vae, *(() if is_live else components.text_encoders.values())), compute.device)
    aside.put()
    return aside


def build_validation(config: RunConfig, dataset: Dataset, timesteps: int) -> Validation:
    """The same few pictures whatever they are called, each at timesteps spread evenly over the schedule."""
    by_content = sorted(range(len(dataset.examples)), key=lambda i: dataset.examples[i].picture.sha256)
    spread = [round((i + 0.5) * timesteps / VALIDATION_TIMESTEPS) for i in range(VALIDATION_TIMESTEPS)]
    batches = []
    for index in by_content[: config.train.validation_pictures]:
        batch = dataset.plain_batch([index] * VALIDATION_TIMESTEPS)
        random = generator(config.train.seed, "validation", dataset.examples[index].picture.sha256)
        batches.append((batch, Draw(torch.randn(batch.latents.shape, generator=random), torch.tensor(spread))))
    return Validation(tuple(batches), Every(config.train.validation_every_steps))


def sample_shots(config: RunConfig, caption: str) -> tuple[Shot, ...]:
    """One per prompt; without any of the prompt of the set, and without that of `caption`, a picture's."""
    sample, data = config.sample, config.data
    prompts = sample.prompts or (plain(data.instance_prompt, data) if data.instance_prompt else caption,)
    width, height = sample.size_px or (config.data.resolution_px, config.data.resolution_px)
    shot = Shot("", sample.negative, sample.seed, sample.steps, sample.guidance, width, height)
    return tuple(replace(shot, prompt=prompt, seed=sample.seed + number) for number, prompt in enumerate(prompts))


def identity(
    config: RunConfig, fingerprint: str, datasets: tuple[Dataset, ...], precision: Precision
) -> dict[str, object]:
    """Everything that has to be the same for a resumed run to be the same run, by the names of the settings.

    The precision is what 'auto' comes to here, and stands before the base model: its fingerprint is taken in it.
    """
    content = [
        (dataset.purpose, example.picture.sha256, example.caption, *((example.mask.sha256,) if example.mask else ()))
        for dataset in datasets
        for example in dataset.examples
    ]
    settings = _flattened(config.model_dump(mode="json", exclude=FREE_SECTIONS))
    kept = {name: value for name, value in settings.items() if re.sub(r"\.\d+\.", ".", name) not in FREE_SETTINGS}
    if ranks := config.adapter.ranks:  # of several that match a layer the last one counts
        kept["adapter.ranks"] = list(ranks)
    return kept | {
        "train.precision": precision,
        "optim.learning_rate": config.optim.rate,
        "optim.betas": list(config.optim.own_betas or ()),
        "model.base": f"weights {fingerprint[:12]}",
        "data.folder": f"pictures and captions {cache_key(*content)[:12]}",
    }


def _flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """By dotted key; tables in a list by their number, counted from 1."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            value = {str(number): one for number, one in enumerate(value, start=1)}
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
