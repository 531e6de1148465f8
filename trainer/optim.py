"""What is optimised, at which rate, until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dora_core.adapter import Adapter
from trainer.averages import Average, Ema, ScheduleFreeAverage
from trainer.config_learning import OptimConfig
from trainer.failures import ExplainedError
from trainer.optimizers import OptimizerKind, what_is_missing
from trainer.schedules import Schedule


class NoOptimizerError(ExplainedError):
    """The optimizer cannot be had on this machine."""

    category = "missing package"


@dataclass(frozen=True)
class PartRate:
    """Peak learning rate of one part (``unet``, ``text_encoder``, ...) and the step after which it stays as it is."""

    learning_rate: float
    last_step: int


@dataclass(frozen=True)
class RatePlan:
    """The learning rate of every part at every step; steps count from 1."""

    schedule: Schedule
    parts: Mapping[str, PartRate]

    def is_training(self, part: str, step: int) -> bool:
        return step <= self.parts[part].last_step

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set every group's rate; parameters of a part that has stopped take no gradient, so nothing moves them."""
        for group in optimizer.param_groups:
            is_training = self.is_training(group["part"], step)
            group["lr"] = group["peak"] * self.schedule.factor(step) if is_training else 0.0
            for parameter in group["params"]:
                parameter.requires_grad_(is_training)


def effective_rates(optimizer: Optimizer) -> dict[str, float]:
    """Of the next step, by group: Prodigy's times the d that it has found."""
    return {group["name"]: group["lr"] * group.get("d", 1.0) for group in optimizer.param_groups}


def require_optimizer(kind: OptimizerKind, device: torch.device) -> None:
    """Raises NoOptimizerError where its package is missing, or the card that the package is for."""
    if missing := what_is_missing(kind, device.type == "cuda"):
        sentence, fix = missing
        raise NoOptimizerError(f"{sentence}.", f"{fix[0].upper()}{fix[1:]}.")


def build_average(adapters: Mapping[str, Adapter], optimizer: Optimizer, config: OptimConfig) -> Average | None:
    if config.row.is_schedule_free:
        return ScheduleFreeAverage(optimizer)
    if config.ema_decay is None:
        return None
    return Ema(list(named_parameters(adapters).values()), config.ema_decay)


def build_optimizer(adapters: Mapping[str, Adapter], rates: RatePlan, config: OptimConfig) -> Optimizer:
    """Over all parts, with a group for each kind of parameter; magnitudes have no weight decay."""
    groups = [
        {**group, "name": f"{part}.{group['name']}", "part": part, "peak": group["lr"]}
        for part, adapter in adapters.items()
        for group in adapter.parameter_groups(
            rates.parts[part].learning_rate,
            weight_decay=config.weight_decay,
            up_factor=config.up_factor,
            magnitude_factor=config.magnitude_factor,
        )
    ]
    optimizer = _make(config, groups)
    for adapter in adapters.values():
        adapter.attach(optimizer)
    return optimizer


def _make(config: OptimConfig, groups: list[dict[str, Any]]) -> Optimizer:
    row = config.row
    options = dict(row.options)
    if config.own_betas is not None:
        options["betas"] = config.own_betas
    if row.is_fused_on_cuda and groups[0]["params"][0].is_cuda:
        options["fused"] = True
    module, _, name = row.path.partition(":")
    return getattr(import_module(module), name)(groups, **options)


def named_parameters(adapters: Mapping[str, Adapter]) -> dict[str, nn.Parameter]:
    """``<part>.<module path>.<down|up|magnitude|difference>`` -> parameter."""
    return {
        f"{part}.{name}.{own}": parameter
        for part, adapter in adapters.items()
        for name, layer in adapter.layers.items()
        for own, parameter in layer.own_parameters().items()
    }


def describe_groups(adapters: Mapping[str, Adapter], optimizer: Optimizer) -> str:
    """One line per group: part, tensors, parameters, peak rate, rank and alpha / rank; printed when training starts."""
    lines = [f"{'group':26}{'tensors':>8}{'parameters':>14}{'peak rate':>12}{'decay':>8}{'rank':>8}{'alpha/rank':>12}"]
    for group in optimizer.param_groups:
        layers = adapters[group["part"]].low_rank.values()
        count = sum(parameter.numel() for parameter in group["params"])
        lines.append(
            f"{group['name']:26}{len(group['params']):>8}{count:>14,}{group['peak']:>12.3g}{group['weight_decay']:>8.3g}"
            f"{_span([layer.rank for layer in layers]):>8}{_span([layer.scale for layer in layers]):>12}"
        )
    return "\n".join(lines)


def _span(values: list[float]) -> str:
    if not values:
        return "full"
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"
