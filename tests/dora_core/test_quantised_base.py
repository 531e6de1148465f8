"""Layers on a base whose weight is packed: norms, outputs and gradients are those of the weight that it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dora_core.injection import inject
from dora_core.layers import DoraLayer
from dora_core.spec import AdapterSpec


class Rounded(nn.Module):
    """Multiples of a step, packed into bytes."""

    def forward(self, packed: Tensor, step: Tensor) -> Tensor:
        return packed * step

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return (weight * 16).round().to(torch.int8), torch.tensor(1 / 16)


SPECS = {
    "lora": AdapterSpec(kind="lora", rank=2),
    "input axis": AdapterSpec(rank=2, norm_axis="input"),
    "output axis": AdapterSpec(rank=2, norm_axis="output"),
    "exact gradient": AdapterSpec(rank=2, norm_gradient="exact"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_packed_weight_is_as_good_as_the_dense_one_that_it_stands_for(spec: AdapterSpec, kind: str) -> None:
    torch.manual_seed(3)
    layer = (nn.Linear(5, 7) if kind == "linear" else nn.Conv2d(5, 7, 3, padding=1)).requires_grad_(False)
    packed = nn.Sequential(layer)
    register_parametrization(layer, "weight", Rounded(), unsafe=True)
    assert layer.parametrizations.weight.original0.dtype == torch.int8  # pyright: ignore
    dense = nn.Sequential(nn.Linear(5, 7) if kind == "linear" else nn.Conv2d(5, 7, 3, padding=1))
    dense[0].load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(3, 5) if kind == "linear" else torch.randn(2, 5, 4, 6)
    outcomes = [outcome(model, spec, x) for model in (packed, dense)]
    assert outcomes[0].keys() == outcomes[1].keys()
    for name, value in outcomes[1].items():
        assert torch.equal(outcomes[0][name], value), name


def test_a_packed_weight_has_no_place_for_a_merged_one() -> None:
    model = nn.Sequential(nn.Linear(5, 7)).requires_grad_(False)
    register_parametrization(model[0], "weight", Rounded(), unsafe=True)
    adapter = inject(model, AdapterSpec(rank=2))
    with pytest.raises(RuntimeError, match="quantised"):
        adapter.merge_into_base()


def outcome(model: nn.Module, spec: AdapterSpec, x: Tensor) -> dict[str, Tensor]:
    """Output, norm and gradients after a step away from the start."""
    adapter = inject(model, spec, seed=1)
    optimizer = torch.optim.SGD(adapter.parameter_groups(0.1))
    adapter.attach(optimizer)
    inside = x.clone().requires_grad_()
    for _ in range(2):
        optimizer.zero_grad()
        y = model(inside)
        y.square().sum().backward()
        optimizer.step()
    (layer,) = adapter.layers.values()
    values = {"y": model(x).detach(), "dx": inside.grad, "merged": layer.merged_weight().detach()}
    if isinstance(layer, DoraLayer):
        values["norm"] = layer.norm.clone()
    values |= {name: parameter.grad for name, parameter in layer.own_parameters().items()}
    assert all(value is not None and value.abs().sum() > 0 for value in values.values())
    return copy.deepcopy({name: value for name, value in values.items() if value is not None})
