"""Rules between the settings of one section; ValueError with key, value and what to do."""

from __future__ import annotations

from trainer.config_learning import OptimConfig, ScheduleConfig


def check_optimizer(optim: OptimConfig) -> None:
    row, kind = optim.row, optim.kind
    low, high = row.rates
    for name, rate in (("learning_rate", optim.rate), ("text_encoder_learning_rate", optim.text_encoder_rate)):
        if row.finds_its_rate and rate < low:
            raise ValueError(
                f"optim.{name} is {rate:g}, but {kind} finds the rate by itself and takes this as a factor of it: "
                f"set it to {row.learning_rate:g} or take it out"
            )
        if rate > high:
            raise ValueError(
                f"optim.{name} is {rate:g}, more than {kind} can learn with: give at most {high:g}, "
                f"{row.learning_rate:g} is usual"
            )
    if row.finds_its_rate:
        _check_one_rate(optim)
    if optim.betas is not None and row.betas is None:
        raise ValueError(f"optim.betas is given, but optim.kind is {kind}, which has none: take it out")
    if row.is_schedule_free and optim.ema_decay is not None:
        raise ValueError(f"optim.ema_decay is {optim.ema_decay:g}, but {kind} averages already: take this setting out")
    if row.is_schedule_free and optim.betas is not None and optim.betas[0] == 0:
        raise ValueError(f"optim.betas begins with 0, but {kind} averages by it: give a number above 0, 0.9 is usual")


def _check_one_rate(optim: OptimConfig) -> None:
    """Of an optimizer that finds one for all."""
    wanted = {"up_factor": 1, "magnitude_factor": 1, "text_encoder_learning_rate": optim.rate}
    for name, value in wanted.items():
        given = getattr(optim, name)
        if given not in (None, value):
            raise ValueError(
                f"optim.{name} is {given:g}, but {optim.kind} finds one rate for everything: take this setting out"
            )


def check_schedule(schedule: ScheduleConfig, steps: int) -> None:
    if 0.5 < schedule.warmup < 1 or (schedule.warmup > 1 and schedule.warmup % 1):
        raise ValueError(
            f"schedule.warmup is {schedule.warmup:g}: give a share of the steps up to 0.5, or a whole number of steps"
        )
    if schedule.warmup_steps(steps) >= steps > 1:
        raise ValueError(
            f"schedule.warmup is {schedule.warmup:g}, but train.steps is {steps}: give fewer, or a share up to 0.5"
        )
    for name in ("decay", "cycles"):
        if schedule.kind == "constant" and getattr(schedule, name) != 1:
            raise ValueError(
                f"schedule.{name} is {getattr(schedule, name)}, but schedule.kind is constant, which never falls: "
                "set that to cosine, linear or rex, or take this setting out"
            )
