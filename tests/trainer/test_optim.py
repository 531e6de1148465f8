"""Groups, parts that stop, and every optimizer: its step, the norms after it, what it keeps, its average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dora_core import AdapterSpec, inject
from dora_core.adapter import Adapter
from dora_core.layers import DoraLayer
from trainer.averages import Ema, shown
from trainer.config_learning import OptimConfig
from trainer.optim import (
    NoOptimizerError,
    PartRate,
    RatePlan,
    build_average,
    build_optimizer,
    describe_groups,
    effective_rates,
    named_parameters,
    require_optimizer,
)
from trainer.optimizer_state import put_back, read_optimizer, state_of, write_optimizer
from trainer.optimizers import OPTIMIZERS, OptimizerKind
from trainer.schedules import Schedule

HERE: list[OptimizerKind] = [kind for kind, row in OPTIMIZERS.items() if not row.package]


def plan(warmup: int = 2, steps: int = 10) -> RatePlan:
    parts = {"unet": PartRate(1e-2, steps), "text_encoder": PartRate(1e-3, 4)}
    return RatePlan(Schedule("cosine", warmup, steps), parts)


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


def test_lora_plus_gives_the_up_factors_a_rate_of_their_own() -> None:
    _, optimizer = two_parts(up_factor=16)
    peaks = {group["name"]: group["peak"] for group in optimizer.param_groups}
    assert [peaks[f"unet.{part}"] for part in ("down", "up", "magnitude")] == [1e-2, 0.16, 5e-3]


FIRST_STEPS: dict[OptimizerKind, float] = {
    "adamw": 1e-4,  # the ratio of the two averages is 1
    "lion": 2e-5,
    "adafactor": 1e-4,
    "prodigy": 1e-6,  # d0
    "adamw-schedule-free": 2e-4,
}


@pytest.mark.parametrize("kind", HERE)
def test_the_first_step_against_a_gradient_that_is_the_same_everywhere_is_the_rate(kind: OptimizerKind) -> None:
    """In every one of these algorithms: mean and root of the square are g and abs(g), or the sign counts alone."""
    layer, optimizer, _ = one_layer(kind, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in layer.own_parameters().items()}
    for parameter in layer.own_parameters().values():
        parameter.grad = torch.full_like(parameter, 0.25)
    optimizer.step()
    for name, parameter in layer.own_parameters().items():
        moved = before[name].double() - parameter.double()
        torch.testing.assert_close(moved, torch.full_like(moved, FIRST_STEPS[kind]), rtol=0.1, atol=2e-7)


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("axis", ["input", "output"])
def test_norms_are_right_after_a_step_of_every_optimizer(kind: OptimizerKind, axis: Any) -> None:
    layer, optimizer, random = one_layer(kind, axis=axis, learning_rate=10 if kind == "prodigy" else 0.02)
    for _ in range(4):
        take_step(layer, optimizer, random)
    dense = layer.original_weight + layer.scale * (layer.up @ layer.down)
    wanted = torch.linalg.vector_norm(dense.detach(), dim=0 if axis == "input" else 1)
    torch.testing.assert_close(layer.norm, wanted)
    assert not torch.equal(layer.norm, layer.base_squared.sqrt())


@pytest.mark.parametrize("kind", HERE)
def test_three_steps_and_three_more_from_a_file_are_six_to_the_bit(kind: OptimizerKind, tmp_path: Path) -> None:
    straight, optimizer, random = one_layer(kind)
    for _ in range(6):
        take_step(straight, optimizer, random)
    first, optimizer, random = one_layer(kind)
    for _ in range(3):
        take_step(first, optimizer, random)
    row, named = OPTIMIZERS[kind], first.own_parameters()
    write_optimizer(tmp_path / "state", state_of(optimizer, named, row.group_state))
    second, optimizer, _ = one_layer(kind)
    second.load_state_dict(first.state_dict())
    second.refresh_norm()
    put_back(read_optimizer(tmp_path / "state"), optimizer, second.own_parameters())
    for _ in range(3):
        take_step(second, optimizer, random)
    for name, parameter in straight.own_parameters().items():
        assert torch.equal(parameter, second.own_parameters()[name])


@pytest.mark.parametrize("kind", HERE)
def test_what_an_optimizer_keeps_is_counted_exactly(kind: OptimizerKind) -> None:
    for base in (nn.Linear(5, 7), nn.Conv2d(3, 6, (2, 4))):
        layer, optimizer, random = one_layer(kind, base)
        take_step(layer, optimizer, random)
        for parameter in layer.own_parameters().values():
            kept = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
            real = sum(value.nbytes for value in kept if value.dim() > 0)  # without AdamW's count of steps
            assert OPTIMIZERS[kind].state_bytes(tuple(parameter.shape)) == real


def test_8_bit_moments_are_a_byte_each_and_a_scale_per_block() -> None:
    count = OPTIMIZERS["adamw8bit"].state_bytes
    assert count((7, 5)) == 8 * 35  # too small to be worth it: float32
    assert count((64, 64)) == 2 * 4096 + 2 * 4 * 16
    assert count((300, 16)) == 2 * 4800 + 2 * 4 * 19


def test_prodigy_shows_the_rate_that_it_has_found() -> None:
    layer, optimizer, random = one_layer("prodigy")
    assert effective_rates(optimizer) == pytest.approx(dict.fromkeys(("unet.down", "unet.up", "unet.magnitude"), 1e-6))
    for _ in range(40):
        take_step(layer, optimizer, random)
    (rate,) = set(effective_rates(optimizer).values())
    assert rate == optimizer.param_groups[0]["d"] > 1.1e-6


def test_the_average_is_the_one_worked_by_hand_and_goes_without_a_trace() -> None:
    """1 - w is 9 / 11 and 9 / 12 while w is (1 + n) / (10 + n), then 1 - decay."""
    layer, optimizer, random = one_layer("adamw", learning_rate=0.1)
    adapters = {"unet": Adapter({"0": layer}, AdapterSpec(rank=2))}
    ema = Ema(list(adapters["unet"].parameters()), decay=0.26)
    values = [layer.magnitude.detach().double()]
    for step in range(1, 4):
        take_step(layer, optimizer, random)
        ema.update(step)
        values.append(layer.magnitude.detach().double())
    first = values[0] * 2 / 11 + values[1] * 9 / 11
    second = first * 3 / 12 + values[2] * 9 / 12
    third = second * 0.26 + values[3] * 0.74
    own = {name: p.detach().clone() for name, p in layer.own_parameters().items()}
    norm = layer.norm.clone()
    with shown(ema, adapters):
        torch.testing.assert_close(layer.magnitude.double(), third, rtol=1e-6, atol=1e-6)
        dense = layer.original_weight + layer.scale * (layer.up @ layer.down)
        torch.testing.assert_close(layer.norm, torch.linalg.vector_norm(dense, dim=0))
    assert all(torch.equal(p, own[name]) for name, p in layer.own_parameters().items())
    assert torch.equal(layer.norm, norm)


def test_what_schedule_free_shows_is_the_mean_of_its_own_steps_and_it_trains_on_as_if_never_looked_at() -> None:
    """x_n is the mean of z_1 .. z_n where the rate is constant (arXiv 2405.15682, eq. 5)."""
    seen, optimizer, random = one_layer("adamw-schedule-free", weight_decay=0.0)
    blind, other, same = one_layer("adamw-schedule-free", weight_decay=0.0)
    adapters = {"unet": Adapter({"0": seen}, AdapterSpec(rank=2))}
    average = build_average(adapters, optimizer, OptimConfig(kind="adamw-schedule-free"))
    points: list[torch.Tensor] = []
    for _ in range(5):
        take_step(seen, optimizer, random)
        take_step(blind, other, same)
        points.append(optimizer.state[seen.down]["z"].clone())
        with shown(average, adapters):
            torch.testing.assert_close(seen.down.detach(), torch.stack(points).mean(0), rtol=1e-5, atol=1e-6)
            assert not torch.equal(seen.down, blind.down) or len(points) == 1
    assert torch.equal(seen.down, blind.down)
    assert torch.equal(seen.norm, blind.norm)


def test_an_optimizer_that_cannot_work_here_is_told_in_words() -> None:
    with pytest.raises(NoOptimizerError, match=r"adamw8bit, which needs an NVIDIA card\. Set it to adamw\."):
        require_optimizer("adamw8bit", torch.device("cpu"))
    for kind in HERE:
        require_optimizer(kind, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_on_a_card_too_what_was_kept_goes_on_to_the_bit_and_norms_follow(kind: OptimizerKind, tmp_path: Path) -> None:
    """Fused AdamW has its count of steps on the card, 8-bit AdamW bytes."""
    if OPTIMIZERS[kind].package:
        pytest.importorskip(OPTIMIZERS[kind].package)
    named, optimizer, layer = on_card(kind)
    random = torch.Generator("cuda").manual_seed(3)
    for _ in range(3):
        take_step(layer, optimizer, random)
    write_optimizer(tmp_path / "state", state_of(optimizer, named, OPTIMIZERS[kind].group_state))
    again, other, copy = on_card(kind)
    copy.load_state_dict(layer.state_dict())
    put_back(read_optimizer(tmp_path / "state"), other, again)
    for _ in range(3):
        gradients = random.get_state()
        take_step(layer, optimizer, random)
        random.set_state(gradients)
        take_step(copy, other, random)
    assert all(torch.equal(named[name], again[name]) for name in named)
    assert bool(optimizer.param_groups[0].get("fused")) == (kind == "adamw")
    dense = layer.original_weight + layer.scale * (layer.up @ layer.down)
    torch.testing.assert_close(layer.norm, torch.linalg.vector_norm(dense.detach(), dim=0))


def on_card(kind: OptimizerKind) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer, DoraLayer]:
    """Large enough for 8 bits."""
    layer, optimizer, _ = one_layer(kind, nn.Linear(1500, 2500, device="cuda"), rank=4)
    return layer.own_parameters(), optimizer, layer


def test_8_bit_adamw_goes_on_from_a_file(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    parameters = {"a": nn.Parameter(torch.ones(64, 80)), "b": nn.Parameter(torch.ones(3))}

    def made() -> torch.optim.Optimizer:
        return bitsandbytes.optim.AdamW8bit([{"name": "all", "params": list(parameters.values())}])

    def step(optimizer: torch.optim.Optimizer, number: int) -> list[torch.Tensor]:
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        optimizer.step()
        return [parameter.detach().clone() for parameter in parameters.values()]

    optimizer = made()
    step(optimizer, 1)
    before = [parameter.detach().clone() for parameter in parameters.values()]
    write_optimizer(tmp_path / "state", state_of(optimizer, parameters))
    wanted = step(optimizer, 2)
    for parameter, value in zip(parameters.values(), before, strict=True):
        parameter.data.copy_(value)
    again = made()
    put_back(read_optimizer(tmp_path / "state"), again, parameters)
    assert all(torch.equal(one, other) for one, other in zip(step(again, 2), wanted, strict=True))


def one_layer(
    kind: OptimizerKind, base: nn.Linear | nn.Conv2d | None = None, axis: Any = "input", rank: int = 2, **settings: Any
) -> tuple[DoraLayer, torch.optim.Optimizer, torch.Generator]:
    """A DoRA layer, its optimizer, and what the gradients of its steps are drawn from."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 7) if base is None else base)
    adapter = inject(model, AdapterSpec(rank=rank, alpha=3.0, norm_axis=axis))
    config = OptimConfig(kind=kind, **settings)
    rates = replace(plan(), parts={"unet": PartRate(config.rate, 10)})
    optimizer = build_optimizer({"unet": adapter}, rates, config)
    layer = adapter.layers["0"]
    assert isinstance(layer, DoraLayer)
    return layer, optimizer, torch.Generator().manual_seed(3)


def take_step(layer: DoraLayer, optimizer: torch.optim.Optimizer, random: torch.Generator) -> None:
    for parameter in layer.own_parameters().values():
        parameter.grad = torch.randn(parameter.shape, generator=random, device=random.device) + 0.5
    optimizer.step()


def two_parts(**settings: Any):
    spec = AdapterSpec(rank=2, alpha=3.0)
    adapters = {part: inject(nn.Sequential(nn.Linear(5, 7)), spec) for part in ("unet", "text_encoder")}
    config = OptimConfig(weight_decay=0.05, magnitude_factor=0.5, **settings)
    return adapters, build_optimizer(adapters, plan(), config)
