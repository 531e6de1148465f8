"""Layers go into torch.compile whole, and their passes over activations on their own; neither changes a result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_core import Adapter, AdapterSpec, inject
from dora_core.spec import NormAxis
from tests.dora_core.layer_cases import error, gradients, move
from tests.dora_core.test_bf16_gain import LAYERS, surviving_slope

pytestmark = [  # the compiler itself uses what PyTorch has deprecated, and looks at gradients that PyTorch warns of
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

SPECS = {
    "lora": AdapterSpec(kind="lora", rank=3),
    "output": AdapterSpec(norm_axis="output", rank=3),
    "input": AdapterSpec(norm_axis="input", rank=3),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def block(spec: AdapterSpec, dtype: torch.dtype) -> tuple[nn.Module, Adapter]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.SiLU(), nn.Flatten(2), nn.Linear(20, 7)).to(dtype)
    adapter = inject(model, spec)
    for layer in adapter.low_rank.values():
        move(layer)
    adapter.refresh_norms()
    return model, adapter


@every_spec
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_compiled_in_one_graph_with_the_same_outputs_and_gradients(
    spec: AdapterSpec, dtype: torch.dtype
) -> None:
    model, adapter = block(spec, dtype)
    x = torch.randn(2, 5, 4, 5).to(dtype).requires_grad_()
    inputs = [x, *adapter.parameters()]
    y = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
    assert error(compiled, y) < tolerance
    for ours, expected in zip(gradients(compiled, inputs), gradients(y, inputs), strict=True):
        assert error(ours, expected) < tolerance


@pytest.mark.slow
@every_spec
def test_compiled_kernels_change_no_result(spec: AdapterSpec) -> None:
    model, adapter = block(spec, torch.bfloat16)
    x = torch.randn(2, 5, 4, 5).bfloat16().requires_grad_()
    inputs = [x, *adapter.parameters()]
    y = model(x)
    adapter.compile()
    compiled = model(x)
    assert torch.equal(compiled, y)
    for ours, expected in zip(gradients(compiled, inputs), gradients(y, inputs), strict=True):
        assert error(ours, expected) < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("path", ["bfloat16", "autocast"])
def test_the_effect_of_a_small_gain_survives_in_compiled_kernels(kind: str, axis: NormAxis, path: str) -> None:
    slope = surviving_slope(kind, AdapterSpec(norm_axis=axis, rank=4), path, 0.0005, compile_kernels=True)
    assert 0.9 < slope < 1.1
