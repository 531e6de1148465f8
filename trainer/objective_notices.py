"""What is odd about the loss and the noise of a config: settings that work against each other. For the plan."""

from __future__ import annotations

from trainer.base_files import BaseFacts
from trainer.config import RunConfig

NARROW = 0.1  # of the schedule
LOUD = 0.2


def objective_notices(config: RunConfig, base: BaseFacts | None) -> list[str]:
    return [*_at_zero_snr(config, base), *_noise(config), *_loss(config)]


def _at_zero_snr(config: RunConfig, base: BaseFacts | None) -> list[str]:
    stated = config.model.zero_terminal_snr
    if not (base is not None and base.ends_in_noise if stated is None else stated):
        return []
    notices: list[str] = []
    for name, value in (("offset", config.noise.offset), ("pyramid", config.noise.pyramid)):
        if value:
            notices.append(
                f"noise.{name} is {value:g} and the model has zero terminal SNR: that already teaches dark and bright "
                f"pictures, and both together tend to overdo it; set noise.{name} to 0"
            )
    if config.loss.weighting != "none":
        notices.append(
            f"loss.weighting is {config.loss.weighting} and the model has zero terminal SNR: where there is only noise "
            "the weight is 0, so brightness and composition as a whole are hardly learned; none counts all alike"
        )
    if config.noise.timestep_range[1] < 1:
        notices.append(
            f"noise.timestep_range ends at {config.noise.timestep_range[1]:g} and the model has zero terminal SNR: its "
            "last timesteps, where a picture begins, stay as they are"
        )
    return notices


def _noise(config: RunConfig) -> list[str]:
    noise = config.noise
    notices: list[str] = []
    if noise.offset and noise.pyramid:
        notices.append("noise.offset and noise.pyramid are for the same: most recipes have one of them")
    if noise.offset > LOUD:
        notices.append(f"noise.offset is {noise.offset:g}: above {LOUD} pictures tend to turn out dark, 0.05 is usual")
    first, last = noise.timestep_range
    if last - first < NARROW:
        notices.append(f"noise.timestep_range is [{first:g}, {last:g}]: little of the noise schedule is trained")
    if noise.timesteps != "uniform" and config.loss.weighting != "none":
        notices.append(
            f"noise.timesteps is {noise.timesteps} and loss.weighting is {config.loss.weighting}: both weigh "
            "timesteps; most recipes have one of them"
        )
    return notices


def _loss(config: RunConfig) -> list[str]:
    loss = config.loss
    if loss.delta_schedule == "snr" and loss.delta is not None and loss.delta > 1:
        return [f"loss.delta is {loss.delta:g}: with loss.delta_schedule = snr it grows with the noise, from 1"]
    return []
