"""In half precision the effect of a small gain, and of a small update, survives: no more and no less than there is.

Rounding to nearest loses whatever is below half a unit in the last place, 0.2 to 0.4 % in bfloat16. Regressing what a
layer changes on what it should change, over thousands of tokens, gives the share that survived.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dora_core import AdapterSpec, DoraLayer
from dora_core.rounding import round_unbiased
from dora_core.spec import NormAxis
from tests.dora_core.layer_cases import dense_output, dense_weight, one_layer

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(96, 160), (4, 1024, 96)),
    "conv 3x3": (lambda: nn.Conv2d(24, 40, 3, padding=1), (4, 24, 32, 32)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_axis = pytest.mark.parametrize("axis", ["output", "input"])
every_path = pytest.mark.parametrize("path", ["bfloat16", "float16", "autocast", "autocast of an upcast input"])


def surviving_slope(kind: str, spec: AdapterSpec, path: str, spread: float, *, compile_kernels: bool = False) -> float:
    """Of the regression of (adapted - base), as computed in half precision, on the exact effect, without intercept."""
    torch.manual_seed(3)
    make, shape = LAYERS[kind]
    half = torch.float16 if path == "float16" else torch.bfloat16
    is_autocast = path.startswith("autocast")
    module = make() if is_autocast else make().to(half)
    x = torch.randn(shape) if path == "autocast" else torch.randn(shape).to(half)
    x = x.float() if is_autocast else x
    model, adapter, layer = one_layer(module, spec, moved=False)
    if compile_kernels:
        adapter.compile()
    with torch.no_grad():
        if isinstance(layer, DoraLayer):
            layer.magnitude.mul_(1 + spread * torch.randn(layer.magnitude.shape))
        else:
            base = layer.base.weight.flatten(1).float()
            layer.up.copy_(torch.randn(layer.up.shape))
            layer.up.mul_(spread * base.norm() / (layer.up.flatten(1) @ layer.down.flatten(1)).norm())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        adapted = model(x)
        with adapter.disabled():
            base = model(x)
    weight = dense_weight(layer, spec.norm_axis, "detached")
    effect = dense_output(layer, weight, x) - dense_output(layer, layer.base.weight.double(), x)
    assert adapted.dtype == base.dtype == half
    return regression_slope(adapted.double() - base.double(), effect)


def regression_slope(values: Tensor, reference: Tensor) -> float:
    return ((values * reference).sum() / reference.square().sum()).item()


@every_layer
@every_axis
@every_path
@pytest.mark.parametrize("spread", [0.0005, 0.0015])
def test_the_effect_of_a_small_gain_survives(kind: str, axis: NormAxis, path: str, spread: float) -> None:
    slope = surviving_slope(kind, AdapterSpec(norm_axis=axis, rank=4), path, spread)
    assert 0.9 < slope < 1.1


@every_layer
@every_path
@pytest.mark.parametrize("size", [0.0005, 0.0015])
def test_the_effect_of_a_small_low_rank_update_survives(kind: str, path: str, size: float) -> None:
    assert 0.9 < surviving_slope(kind, AdapterSpec(kind="lora", rank=4), path, size) < 1.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_keeps_small_changes_on_average_where_rounding_to_nearest_loses_them(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    source = torch.randn(200_000).to(dtype)
    change = source.float() * (2e-4 if dtype == torch.bfloat16 else 2e-5)
    value = source.float() + change
    assert regression_slope(value.to(dtype).float() - source.float(), change) < 0.1
    assert 0.9 < regression_slope(round_unbiased(value, source).float() - source.float(), change) < 1.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_errs_by_less_than_one_unit_in_the_last_place(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    source = torch.randn(50_000).to(dtype)
    value = source.float() * (1 + 0.05 * torch.randn(50_000))
    exponent = value.abs().clamp_min(torch.finfo(dtype).smallest_normal).log2().floor()
    unit = torch.finfo(dtype).eps * 2**exponent
    assert ((round_unbiased(value, source).float() - value).abs() < unit).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_leaves_every_value_of_the_format_as_it_is(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    rounded = round_unbiased(every.float(), every)
    assert torch.equal(rounded.isnan(), every.isnan())
    finite = ~every.isnan()
    assert torch.equal(rounded[finite].view(torch.int16), every[finite].view(torch.int16))


def test_rounding_lets_no_nan_become_a_number() -> None:
    """Not the ones that a graphics card makes either: all bits but the sign set."""
    payloads = torch.tensor([0x7FFFFFFF, 0x7FC00000, 0x7F800001, -1, -0x400000], dtype=torch.int32)
    for dtype in (torch.bfloat16, torch.float16):
        assert round_unbiased(payloads.view(torch.float32), torch.ones(5).to(dtype)).isnan().all()
