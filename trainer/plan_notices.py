"""What is worth a word about base model, class pictures, kind and schedule of a config. For the plan."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.base_files import BaseFacts
from trainer.config import RunConfig
from trainer.data.scan import picture_files

# Settings that say nothing to a full fine-tune, by section.
NOT_OF_FULL: Mapping[str, tuple[str, ...]] = {
    "adapter": ("rank", "alpha", "conv_rank", "ranks", "rank_stabilised", "dropout", "norm_axis", "norm_gradient"),
    "optim": ("magnitude_factor", "up_factor"),
}


def settings_notices(config: RunConfig, base: BaseFacts | None) -> list[str]:
    return [*_base(config, base), *_prior(config), *_full(config), *_schedule(config)]


def _base(config: RunConfig, base: BaseFacts | None) -> list[str]:
    if base is None:
        return []
    if base.family is None:
        return [f"{base.name} is not on this machine yet: memory can be told once it has been fetched"]
    notices: list[str] = []
    if base.path is None:
        notices.append(
            f"{base.name} is not on this machine yet: it is fetched first, {base.bytes_on_disk / 2**30:.1f} GiB or more"
        )
    if base.prediction is None and config.model.prediction == "auto" and base.path is not None:
        notices.append(
            "the base model's files do not say what it predicts: epsilon is taken, else set model.prediction"
        )
    native = base.family.resolution_px[base.prediction or "epsilon"]
    is_released_size = base.shapes.get("unet.conv_in", (0,))[0] == 320
    if is_released_size and config.data.resolution_px < native / 1.5:
        notices.append(f"data.resolution_px is {config.data.resolution_px}: {base.family.title} was made for {native}")
    return notices


def _prior(config: RunConfig) -> list[str]:
    prior = config.data.prior
    if prior is None or prior.folder is None:
        return []
    there = len(picture_files(prior.folder))
    return [f"{there} of {prior.count} class pictures are there; missing ones are drawn first"]


def _full(config: RunConfig) -> list[str]:
    """Presets have a rank, so that setting one is no mistake."""
    if config.adapter.kind != "full":
        return []
    passed_over = [
        f"{section}.{key}"
        for section, keys in NOT_OF_FULL.items()
        for key in keys
        if getattr(getattr(config, section), key) != type(getattr(config, section)).model_fields[key].default
    ]
    notices = [f"adapter.kind is full, to which {', '.join(passed_over)} says nothing"] if passed_over else []
    rate = f"optim.learning_rate is {config.optim.rate:g}, of whole weights, which bear less than factors do"
    return [*notices, rate]


def _schedule(config: RunConfig) -> list[str]:
    """What the optimizer's authors advise for the schedule."""
    row, kind, schedule = config.optim.row, config.optim.kind, config.schedule
    if row.is_schedule_free and schedule.kind != "constant":
        return [f"schedule.kind is {schedule.kind}: {kind} averages instead of slowing down, constant suits it"]
    if row.finds_its_rate and schedule.cycles > 1:
        return [f"schedule.cycles is {schedule.cycles}: {kind} finds its rate best without restarts"]
    return []
