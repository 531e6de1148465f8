"""Learning rates worked by hand, groups, and parts that stop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dora_core import AdapterSpec, inject
from trainer.config_sections import OptimConfig
from trainer.optim import PartRate, RatePlan, build_optimizer, describe_groups, named_parameters


def plan(kind: str = "cosine", warmup: int = 2, steps: int = 10) -> RatePlan:
    parts = {"unet": PartRate(1e-2, steps), "text_encoder": PartRate(1e-3, 4)}
    return RatePlan(kind, warmup, steps, parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "factor"),
    [(1, 0.5), (2, 1.0), (3, 1.0), (7, 0.5), (10, (1 + math.cos(math.pi * 7 / 8)) / 2)],
)
def test_cosine_with_warm_up_is_the_numbers_worked_by_hand(step: int, factor: float) -> None:
    assert plan().factor(step) == pytest.approx(factor)


def test_a_constant_rate_stays_after_warm_up() -> None:
    assert [plan("constant").factor(step) for step in (1, 2, 3, 10)] == [0.5, 1, 1, 1]
    assert plan("constant", warmup=0).factor(1) == 1


def test_every_part_has_its_groups_with_rate_and_decay() -> None:
    adapters, optimizer = two_parts()
    rows = {g["name"]: (g["peak"], g["weight_decay"]) for g in optimizer.param_groups}
    assert rows == {
        "unet.down": (1e-2, 0.05),
        "unet.up": (1e-2, 0.05),
        "unet.magnitude": (5e-3, 0.0),
        "text_encoder.down": (1e-3, 0.05),
        "text_encoder.up": (1e-3, 0.05),
        "text_encoder.magnitude": (5e-4, 0.0),
    }
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in named_parameters(adapters).values())


def test_a_part_that_has_stopped_does_not_move_and_the_others_do() -> None:
    adapters, optimizer = two_parts()
    rates = plan()
    for step in range(1, 7):
        rates.apply(optimizer, step)
        before = {name: p.detach().clone() for name, p in named_parameters(adapters).items()}
        optimizer.zero_grad()
        loss = torch.stack(
            [adapter.layers["0"](torch.ones(3, 5)).square().sum() for adapter in adapters.values()]
        ).sum()
        loss.backward()
        optimizer.step()
        moved = {name for name, p in named_parameters(adapters).items() if not torch.equal(p, before[name])}
        parts = {name.partition(".")[0] for name in moved}
        assert parts == ({"unet", "text_encoder"} if step <= 4 else {"unet"})


def test_the_summary_names_part_count_rate_rank_and_scale() -> None:
    adapters, optimizer = two_parts()
    lines = describe_groups(adapters, optimizer).splitlines()
    assert lines[1].split() == ["unet.down", "1", "10", "0.01", "0.05", "2", "1.5"]
    assert lines[6].split() == ["text_encoder.magnitude", "1", "5", "0.0005", "0", "2", "1.5"]


def two_parts():
    spec = AdapterSpec(rank=2, alpha=3.0)
    adapters = {part: inject(nn.Sequential(nn.Linear(5, 7)), spec) for part in ("unet", "text_encoder")}
    config = OptimConfig(weight_decay=0.05, magnitude_factor=0.5)
    return adapters, build_optimizer(adapters, plan(), config)
