"""The same numbers in PEFT give the same outputs, gradients and training: DoRA on the output axis, detached; LoRA."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from dora_core import Adapter, AdapterSpec, DoraLayer, inject
from tests.dora_core.layer_cases import LAYERS, error, move, training_losses

RANK, ALPHA = 3, 6


def both(module: nn.Module, spec: AdapterSpec) -> tuple[nn.Module, Adapter, nn.Module, list[nn.Parameter]]:
    """Our model and PEFT's on the same base, with the same numbers; PEFT's parameters in the order of ours."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], use_dora=spec.kind == "dora")
    theirs: Any = get_peft_model(nn.Sequential(copy.deepcopy(module)), config)
    ours = nn.Sequential(module)
    adapter = inject(ours, spec)
    layer = adapter.low_rank["0"]
    move(layer)
    peft_layer: Any = theirs.base_model.model[0]
    parameters = [peft_layer.lora_A["default"].weight, peft_layer.lora_B["default"].weight]
    if isinstance(layer, DoraLayer):
        parameters.append(peft_layer.lora_magnitude_vector["default"].weight)
    with torch.no_grad():
        for parameter, value in zip(parameters, adapter.parameters(), strict=True):
            parameter.copy_(value.reshape(parameter.shape))
    return ours, adapter, theirs, parameters


SPECS = {
    "dora": AdapterSpec(norm_axis="output", rank=RANK, alpha=ALPHA),
    "lora": AdapterSpec(kind="lora", rank=RANK, alpha=ALPHA),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_outputs_and_gradients_equal_pefts(kind: str, spec: AdapterSpec) -> None:
    torch.manual_seed(3)
    make, shape = LAYERS[kind]
    ours, adapter, theirs, parameters = both(make(), spec)
    x = torch.randn(shape, requires_grad=True)
    y, expected = ours(x), theirs(x)
    assert error(y, expected) < 1e-5
    dy = torch.randn(y.shape)
    got = torch.autograd.grad(y, [x, *adapter.parameters()], dy)
    wanted = torch.autograd.grad(expected, [x, *parameters], dy)
    for ours_one, theirs_one in zip(got, wanted, strict=True):
        assert error(ours_one, theirs_one.reshape(ours_one.shape)) < 1e-5


@pytest.mark.parametrize("kind", ["linear", "conv 3x3"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_50_optimizer_steps_follow_pefts_losses(kind: str, spec: AdapterSpec) -> None:
    torch.manual_seed(3)
    make, shape = LAYERS[kind]
    ours, adapter, theirs, parameters = both(make(), spec)
    x = torch.randn(shape)
    target = torch.randn(ours(x).shape)
    curve = training_losses(ours, list(adapter.parameters()), x, target)
    expected = training_losses(theirs, parameters, x, target)
    assert expected[-1] < 0.9 * expected[0]
    assert max(abs(a - b) for a, b in zip(curve, expected, strict=True)) < 1e-4
