"""The same numbers in LyCORIS give the same outputs, gradients and training: DoRA of either axis, exact; LoCon."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lycoris.modules.locon import LoConModule
from torch import nn

from dora_core import Adapter, AdapterSpec, DoraLayer, inject
from dora_core.spec import NormAxis
from tests.dora_core.layer_cases import LAYERS, error, move, training_losses

RANK, ALPHA = 3, 6


def both(
    module: nn.Module, spec: AdapterSpec, axis: NormAxis | None
) -> tuple[nn.Module, Adapter, nn.Module, list[nn.Parameter]]:
    """Our model and LyCORIS' on the same base, with the same numbers; its parameters in the order of ours."""
    wrapped = copy.deepcopy(module).requires_grad_(False)
    theirs: Any = LoConModule(
        "layer",
        wrapped,
        lora_dim=RANK,
        alpha=ALPHA,
        weight_decompose=axis is not None,
        wd_on_out=axis == "output",
        bypass_mode=False,
    )
    ours = nn.Sequential(module)
    adapter = inject(ours, spec)
    layer = adapter.low_rank["0"]
    move(layer)
    parameters = [theirs.lora_down.weight, theirs.lora_up.weight]
    if isinstance(layer, DoraLayer):
        parameters.append(theirs.dora_scale)
    with torch.no_grad():
        for parameter, value in zip(parameters, adapter.parameters(), strict=True):
            assert parameter.shape == value.shape
            parameter.copy_(value)
    return ours, adapter, theirs, parameters


def spec_of(axis: NormAxis | None) -> AdapterSpec:
    if axis is None:
        return AdapterSpec(kind="lora", rank=RANK, alpha=ALPHA)
    return AdapterSpec(norm_axis=axis, norm_gradient="exact", rank=RANK, alpha=ALPHA)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("axis", ["output", "input", None])
def test_outputs_and_gradients_equal_lycoris(kind: str, axis: NormAxis | None) -> None:
    torch.manual_seed(3)
    make, shape = LAYERS[kind]
    ours, adapter, theirs, parameters = both(make(), spec_of(axis), axis)
    x = torch.randn(shape, requires_grad=True)
    y, expected = ours(x), theirs(x)
    assert error(y, expected) < 1e-5
    dy = torch.randn(y.shape)
    got = torch.autograd.grad(y, [x, *adapter.parameters()], dy)
    wanted = torch.autograd.grad(expected, [x, *parameters], dy)
    for ours_one, theirs_one in zip(got, wanted, strict=True):
        assert error(ours_one, theirs_one) < 1e-5


@pytest.mark.parametrize("kind", ["linear", "conv 3x3"])
@pytest.mark.parametrize("axis", ["output", "input", None])
def test_50_optimizer_steps_follow_lycoris_losses(kind: str, axis: NormAxis | None) -> None:
    torch.manual_seed(3)
    make, shape = LAYERS[kind]
    ours, adapter, theirs, parameters = both(make(), spec_of(axis), axis)
    x = torch.randn(shape)
    target = torch.randn(ours(x).shape)
    curve = training_losses(ours, list(adapter.parameters()), x, target)
    expected = training_losses(theirs, parameters, x, target)
    assert expected[-1] < 0.9 * expected[0]
    assert max(abs(a - b) for a, b in zip(curve, expected, strict=True)) < 1e-4
