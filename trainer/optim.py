"""What is optimised, at which rate, until when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW

from dora_core.adapter import Adapter
from trainer.config_sections import OptimConfig, ScheduleKind


@dataclass(frozen=True)
class PartRate:
    """Peak learning rate of one part (``unet``, ``text_encoder``, ...) and the step after which it stays as it is."""

    learning_rate: float
    last_step: int


@dataclass(frozen=True)
class RatePlan:
    """The learning rate of every part at every step; steps count from 1."""

    kind: ScheduleKind
    warmup_steps: int
    steps: int
    parts: Mapping[str, PartRate]

    def factor(self, step: int) -> float:
        """Of the peak: linear up to 1 at the last warm-up step, then (1 + cos(pi t)) / 2 with t from 0 towards 1.

        The last step has t just below 1, so that it still learns.
        """
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        t = (step - self.warmup_steps - 1) / max(self.steps - self.warmup_steps, 1)
        return (1 + math.cos(math.pi * t)) / 2

    def is_training(self, part: str, step: int) -> bool:
        return step <= self.parts[part].last_step

    def apply(self, optimizer: AdamW, step: int) -> None:
        """Set every group's rate; parameters of a part that has stopped take no gradient, so nothing moves them."""
        for group in optimizer.param_groups:
            is_training = self.is_training(group["part"], step)
            group["lr"] = group["peak"] * self.factor(step) if is_training else 0.0
            for parameter in group["params"]:
                parameter.requires_grad_(is_training)


def build_optimizer(adapters: Mapping[str, Adapter], rates: RatePlan, config: OptimConfig) -> AdamW:
    """AdamW over all parts, a group for each kind of parameter; magnitudes have no weight decay."""
    groups = [
        {**group, "name": f"{part}.{group['name']}", "part": part, "peak": group["lr"]}
        for part, adapter in adapters.items()
        for group in adapter.parameter_groups(
            rates.parts[part].learning_rate,
            weight_decay=config.weight_decay,
            magnitude_factor=config.magnitude_factor,
        )
    ]
    optimizer = AdamW(groups, betas=config.betas)
    for adapter in adapters.values():
        adapter.attach(optimizer)
    return optimizer


def named_parameters(adapters: Mapping[str, Adapter]) -> dict[str, nn.Parameter]:
    """``<part>.<module path>.<down|up|magnitude|difference>`` -> parameter."""
    return {
        f"{part}.{name}.{own}": parameter
        for part, adapter in adapters.items()
        for name, layer in adapter.layers.items()
        for own, parameter in layer.own_parameters().items()
    }


def describe_groups(adapters: Mapping[str, Adapter], optimizer: AdamW) -> str:
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
