"""The layers equal the dense closed form, start as the base, and refresh their norms no more often than they must."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dora_core import AdapterSpec, DoraLayer, algebra, inject
from dora_core.spec import NormAxis, NormGradient
from tests.dora_core.layer_cases import (
    LAYERS,
    PADDED,
    dense_output,
    dense_weight,
    error,
    gradients,
    move,
    one_layer,
)

# PyTorch's own convolution says so of one of our cases
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

AXES: tuple[NormAxis, ...] = ("output", "input")
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_axis = pytest.mark.parametrize("axis", AXES)
every_gradient = pytest.mark.parametrize("gradient", ["detached", "exact"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@every_layer
@every_axis
@every_gradient
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_output_and_every_gradient_equal_autograd_on_the_dense_form(
    kind: str, axis: NormAxis, gradient: NormGradient, dtype: torch.dtype, tolerance: float
) -> None:
    make, shape = LAYERS[kind]
    spec = AdapterSpec(norm_axis=axis, norm_gradient=gradient, rank=3, alpha=2, conv_rank=5)
    model, adapter, layer = one_layer(make().to(dtype), spec)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    y = model(x)
    reference = dense_output(layer, dense_weight(layer, axis, gradient), x)
    assert error(y, reference) < tolerance
    for ours, expected in zip(gradients(y, inputs), gradients(reference, inputs), strict=True):
        assert error(ours, expected) < tolerance


@every_layer
@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_lora_equals_the_dense_form_with_either_scaling(kind: str, rank_stabilised: bool) -> None:
    make, shape = LAYERS[kind]
    spec = AdapterSpec(kind="lora", rank=4, alpha=6, rank_stabilised=rank_stabilised)
    model, adapter, layer = one_layer(make().double(), spec)
    assert layer.scale == (6 / math.sqrt(4) if rank_stabilised else 6 / 4)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    y, reference = model(x), dense_output(layer, dense_weight(layer, None, "detached"), x)
    assert error(y, reference) < 1e-12
    for ours, expected in zip(gradients(y, inputs), gradients(reference, inputs), strict=True):
        assert error(ours, expected) < 1e-12


@pytest.mark.parametrize("kind", PADDED)
@every_axis
def test_every_way_of_padding_equals_the_dense_form(kind: str, axis: NormAxis) -> None:
    make, shape = PADDED[kind]
    model, adapter, layer = one_layer(make().double(), AdapterSpec(norm_axis=axis, rank=3))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    y, reference = model(x), dense_output(layer, dense_weight(layer, axis, "detached"), x)
    assert error(y, reference) < 1e-12
    for ours, expected in zip(gradients(y, inputs), gradients(reference, inputs), strict=True):
        assert error(ours, expected) < 1e-12


@every_layer
@pytest.mark.parametrize("spec", [AdapterSpec(kind="lora", rank=3), *(AdapterSpec(norm_axis=a, rank=3) for a in AXES)])
@pytest.mark.parametrize("strength", [0.3, -0.5, 1.7])
def test_strength_interpolates_between_base_and_adapted_weight(kind: str, spec: AdapterSpec, strength: float) -> None:
    make, shape = LAYERS[kind]
    model, adapter, layer = one_layer(make().double(), spec)
    adapter.strength = strength
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    weight = dense_weight(layer, spec.norm_axis, "detached", strength)
    y, reference = model(x), dense_output(layer, weight, x)
    assert error(y, reference) < 1e-12
    assert error(adapter.merged_weight("0"), weight) < 1e-12
    for ours, expected in zip(gradients(y, inputs), gradients(reference, inputs), strict=True):
        assert error(ours, expected) < 1e-12


@every_axis
def test_a_strength_that_leaves_nothing_of_a_base_channel_leaves_its_update(axis: NormAxis) -> None:
    """1 + 2 (0.5 - 1) = 0."""
    model, adapter, layer = one_layer(nn.Linear(24, 40), AdapterSpec(norm_axis=axis, rank=3))
    assert isinstance(layer, DoraLayer)
    layer.refresh_norm()
    with torch.no_grad():
        layer.magnitude.view(-1)[[2, 5]] = 0.5 * layer.norm[[2, 5]]
    adapter.strength = 2.0
    x = torch.randn(13, 24, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    y, reference = model(x), dense_output(layer, dense_weight(layer, axis, "detached", 2.0), x)
    assert error(y, reference) < 2e-6
    for ours in gradients(y, inputs):
        assert ours.isfinite().all()


@pytest.mark.parametrize("kind", [*LAYERS, *PADDED])
@pytest.mark.parametrize("spec", [AdapterSpec(kind="lora", rank=3), *(AdapterSpec(norm_axis=a, rank=3) for a in AXES)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_step_0_strength_0_and_disabled_are_the_base_to_the_bit(
    kind: str, spec: AdapterSpec, dtype: torch.dtype
) -> None:
    make, shape = (LAYERS | PADDED)[kind]
    module = make().to(dtype)
    x = torch.randn(shape).to(dtype)
    base = module(x)
    model, adapter, layer = one_layer(module, spec, moved=False)
    assert torch.equal(model(x), base)
    move(layer)
    assert not torch.equal(model(x), base)
    with adapter.disabled():
        assert torch.equal(model(x), base)
    adapter.strength = 0.0
    assert torch.equal(model(x), base)


@pytest.mark.parametrize("spec", [AdapterSpec(kind="lora", rank=3), *(AdapterSpec(norm_axis=a, rank=3) for a in AXES)])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_step_0_under_autocast_is_the_base_to_the_bit(spec: AdapterSpec, weights: torch.dtype) -> None:
    module = nn.Linear(24, 40).to(weights)
    x = torch.randn(2, 11, 24)
    with torch.autocast("cpu", torch.bfloat16):
        base = module(x)
        model, _, _ = one_layer(module, spec, moved=False)
        y = model(x)
    assert y.dtype == base.dtype == torch.bfloat16
    assert torch.equal(y, base)


@pytest.mark.parametrize("spec", [AdapterSpec(kind="lora", rank=3), *(AdapterSpec(norm_axis=a, rank=3) for a in AXES)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_with_channels_moved_last_and_back_are_inputs_and_outputs_like_any_other(
    spec: AdapterSpec, dtype: torch.dtype
) -> None:
    """What a UNet hands to its transformers: views, not copies."""
    module = nn.Linear(24, 40).to(dtype)
    image = torch.randn(2, 24, 6, 5).to(dtype)

    def run(model: nn.Module) -> torch.Tensor:
        return model(image.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 5))

    base = run(module)
    model, adapter, layer = one_layer(module, spec, moved=False)
    assert torch.equal(run(model), base)
    move(layer)
    copied = model(image.flatten(2).transpose(1, 2).contiguous()).transpose(1, 2).unflatten(2, (6, 5)).contiguous()
    y, parameters = run(model), list(adapter.parameters())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-6
    assert error(y, copied) < tolerance
    for ours, expected in zip(gradients(y, parameters), gradients(copied, parameters), strict=True):
        assert error(ours, expected) < tolerance


@every_axis
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_format_of_a_convolution_is_kept(axis: NormAxis, dtype: torch.dtype) -> None:
    make, shape = LAYERS["conv 3x3"]
    model, adapter, _ = one_layer(make().to(dtype), AdapterSpec(norm_axis=axis, rank=3))
    x = torch.randn(shape).to(dtype)
    y, parameters = model(x), list(adapter.parameters())
    last = model(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert error(last, y) < (1e-2 if dtype == torch.bfloat16 else 2e-6)
    for ours, expected in zip(gradients(last, parameters), gradients(y, parameters), strict=True):
        assert error(ours, expected) < (2e-2 if dtype == torch.bfloat16 else 2e-6)


@every_axis
def test_under_autocast_the_gradients_are_those_of_float32_but_for_rounding(axis: NormAxis) -> None:
    make, shape = LAYERS["linear"]
    model, adapter, layer = one_layer(make(), AdapterSpec(norm_axis=axis, rank=3))
    x = torch.randn(shape, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    reference = gradients(dense_output(layer, dense_weight(layer, axis, "detached"), x), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        ours = gradients(y, inputs)
    assert y.dtype == torch.bfloat16
    assert [gradient.dtype for gradient in ours] == [torch.float32] * 4
    assert max(error(a, b) for a, b in zip(ours, reference, strict=True)) < 2e-2


@pytest.mark.parametrize("spec", [AdapterSpec(kind="lora", rank=3), *(AdapterSpec(norm_axis=a, rank=3) for a in AXES)])
def test_backward_inside_autocast_of_a_forward_outside_is_float32(spec: AdapterSpec) -> None:
    make, shape = LAYERS["linear"]
    model, adapter, layer = one_layer(make(), spec)
    x = torch.randn(shape, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    y = model(x)
    reference = gradients(dense_output(layer, dense_weight(layer, spec.norm_axis, "detached"), x), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(y, inputs)
    for gradient, expected in zip(ours, reference, strict=True):
        assert error(gradient, expected) < 2e-6


@every_axis
def test_dropout_acts_on_the_low_rank_path_alone(axis: NormAxis) -> None:
    make, shape = LAYERS["linear"]
    model, adapter, layer = one_layer(make().double(), AdapterSpec(norm_axis=axis, rank=3, dropout=0.4))
    assert isinstance(layer, DoraLayer)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(11)
    y = model(x)
    torch.manual_seed(11)
    kept = (torch.rand(shape) >= 0.4).double() / 0.6
    weight, bias = layer.base.weight, layer.base.get_parameter("bias")
    delta = layer.scale * layer.up @ layer.down
    others = 1 if axis == "output" else 0
    gain = layer.magnitude / (weight + delta).detach().square().sum(others, keepdim=True).sqrt()
    reference = x @ (gain * weight).T + (x * kept) @ (gain * delta).T + bias
    assert error(y, reference) < 1e-12
    inputs = [x, *adapter.parameters()]
    for ours, expected in zip(gradients(y, inputs), gradients(reference, inputs), strict=True):
        assert error(ours, expected) < 1e-12
    model.eval()
    assert error(model(x), dense_output(layer, dense_weight(layer, axis, "detached"), x)) < 1e-12


@pytest.mark.parametrize("kind", ["linear", "conv 3x3 stride 2"])
@every_axis
@every_gradient
def test_a_magnitude_of_zero_has_the_gradient_of_the_dense_form(
    kind: str, axis: NormAxis, gradient: NormGradient
) -> None:
    make, shape = LAYERS[kind]
    spec = AdapterSpec(norm_axis=axis, norm_gradient=gradient, rank=3, alpha=2)
    model, adapter, layer = one_layer(make().double(), spec)
    assert isinstance(layer, DoraLayer)
    with torch.no_grad():
        layer.magnitude.view(-1)[[2, 5]] = torch.tensor([0.0, 1e-9], dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *adapter.parameters()]
    y, reference = model(x), dense_output(layer, dense_weight(layer, axis, gradient), x)
    assert error(y, reference) < 1e-12
    for ours, expected in zip(gradients(y, inputs), gradients(reference, inputs), strict=True):
        assert error(ours, expected) < 1e-12


def test_a_channel_is_computed_twice_only_as_long_as_its_gain_is_too_small_to_divide_by() -> None:
    model, _, layer = one_layer(nn.Linear(24, 40), AdapterSpec(norm_axis="output", rank=3))
    assert isinstance(layer, DoraLayer)
    before = layer.magnitude.detach().clone()
    with torch.no_grad():
        layer.magnitude.view(-1)[[2, 5]] = 0
        model(torch.randn(6, 24))
        assert layer.weak is not None
        assert layer.weak.tolist() == [2, 5]
        layer.magnitude.copy_(before)
        model(torch.randn(6, 24))
    assert layer.weak is None


@every_axis
@every_gradient
def test_a_channel_of_zeros_stays_zero_with_gradients_of_zero(axis: NormAxis, gradient: NormGradient) -> None:
    module = nn.Linear(24, 40)
    with torch.no_grad():
        (module.weight if axis == "output" else module.weight.T)[4] = 0
    x = torch.randn(6, 24, requires_grad=True)
    base = module(x)
    spec = AdapterSpec(norm_axis=axis, norm_gradient=gradient, rank=3)
    model, adapter, layer = one_layer(module, spec, moved=False)
    y = model(x)
    assert torch.equal(y, base)
    assert isinstance(layer, DoraLayer)
    _, d_down, d_up, d_magnitude = gradients(y, [x, *adapter.parameters()])
    assert d_magnitude.flatten()[4] == 0
    assert all(gradient.isfinite().all() for gradient in (d_down, d_up, d_magnitude))
    assert (d_up[4] if axis == "output" else d_down[:, 4]).count_nonzero() == 0


@pytest.mark.parametrize("kind", ["linear", "conv 3x3"])
@every_axis
def test_norms_that_cancel_are_taken_from_the_dense_channels(kind: str, axis: NormAxis) -> None:
    """The update undoes 99.95 % of two channels: their factored sum of squares has no digits left in float32."""
    _, _, layer = one_layer(LAYERS[kind][0](), AdapterSpec(norm_axis=axis, rank=3))
    assert isinstance(layer, DoraLayer)
    own = algebra.channel_dimension(axis)
    with torch.no_grad():
        delta = algebra.low_rank_delta(layer.down, layer.up, layer.scale).transpose(0, own)
        layer.base.weight.transpose(0, own)[[3, 8]] = -delta[[3, 8]] / 0.9995
    layer.refresh_norm()
    combined = layer.base.weight.double() + algebra.low_rank_delta(layer.down.double(), layer.up.double(), layer.scale)
    exact = combined.transpose(0, own).flatten(1).norm(dim=1)
    factored = algebra.factored_squared_norms(
        layer.base_squared[None], [layer.base.weight], layer.down[None], layer.up[None], layer.scale, axis
    )[0].sqrt()
    assert error(layer.norm[[3, 8]], exact[[3, 8]]) < 1e-4
    assert error(factored[[3, 8]], exact[[3, 8]]) > 1e-2
    assert error(layer.norm, exact) < 1e-6


@every_axis
def test_layers_of_one_shape_and_different_scales_have_norms_of_their_own(axis: NormAxis) -> None:
    model = nn.ModuleDict({"one": nn.Linear(24, 40), "other": nn.Linear(24, 40)})
    adapter = inject(model, AdapterSpec(norm_axis=axis, rank=3))
    adapter.low_rank["other"].scale = 2.5
    for layer in adapter.low_rank.values():
        move(layer)
    adapter.refresh_norms()
    for layer in adapter.low_rank.values():
        assert isinstance(layer, DoraLayer)
        delta = algebra.low_rank_delta(layer.down.double(), layer.up.double(), layer.scale)
        assert error(layer.norm, algebra.squared_norm(layer.base.weight.double() + delta, axis).sqrt()) < 1e-6


class ProductPrecisions(TorchDispatchMode):
    """Notes what precision is allowed, and of what type the factors are, whenever a product runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(product in str(func) for product in ("mm", "mkldnn_convolution", "mkldnn_linear")):
            convolutions: Any = torch.backends.mkldnn.conv  # pyright: ignore[reportAttributeAccessIssue]  # not annotated
            allowed = torch.get_float32_matmul_precision(), convolutions.fp32_precision
            self.seen |= {(*allowed, arg.dtype) for arg in args if isinstance(arg, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@every_axis
def test_norms_and_their_gradients_never_use_imprecise_products(axis: NormAxis) -> None:
    _, _, layer = one_layer(nn.Linear(24, 40), AdapterSpec(norm_axis=axis, rank=3))
    assert isinstance(layer, DoraLayer)
    convolutions: Any = torch.backends.mkldnn.conv  # pyright: ignore[reportAttributeAccessIssue]  # not annotated
    before, before_there = torch.get_float32_matmul_precision(), convolutions.fp32_precision
    torch.set_float32_matmul_precision("medium")  # TF32 or bfloat16 inside float32 products
    convolutions.fp32_precision = "bf16"
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), ProductPrecisions() as precisions:
            layer.refresh_norm()
            algebra.norm_gradient(layer.norm, layer.base.weight, layer.down, layer.up, layer.scale, axis)
            algebra.dense_squared_norm(layer.base.weight, layer.down, layer.up, layer.scale, axis, torch.tensor([1, 4]))
        assert precisions.seen == {("highest", "ieee", torch.float32)}
        assert (torch.get_float32_matmul_precision(), convolutions.fp32_precision) == ("medium", "bf16")
    finally:
        torch.set_float32_matmul_precision(before)
        convolutions.fp32_precision = before_there


class Blocks(nn.Module):
    """Two adapted layers with an activation between them, run plainly or recomputed in backward."""

    def __init__(self, run: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 8)
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(lambda value: self.second(torch.tanh(self.first(value))), x)


def plainly(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return function(x)


def checkpointed(reentrant: bool) -> Callable[..., torch.Tensor]:
    return lambda function, x: checkpoint(function, x, use_reentrant=reentrant)


@pytest.mark.parametrize("run", [checkpointed(True), checkpointed(False)], ids=["reentrant", "not reentrant"])
@every_axis
@every_gradient
def test_gradient_checkpointing_changes_no_bit(
    run: Callable[..., torch.Tensor], axis: NormAxis, gradient: NormGradient
) -> None:
    found: list[list[torch.Tensor]] = []
    for way in (plainly, run):
        torch.manual_seed(3)
        model = Blocks(way)
        adapter = inject(model, AdapterSpec(norm_axis=axis, norm_gradient=gradient, rank=3, dropout=0.2))
        for layer in adapter.low_rank.values():
            move(layer)
        x = torch.randn(5, 24, requires_grad=True)
        model(x).square().sum().backward()
        found.append([x, *adapter.parameters()])
    for plain, recomputed in zip(*found, strict=True):
        assert plain.grad is not None
        assert recomputed.grad is not None
        assert torch.equal(plain.grad, recomputed.grad)


@pytest.mark.parametrize("is_attached", [True, False])
@every_axis
@every_gradient
def test_one_norm_refresh_per_optimizer_step_under_accumulation_and_checkpointing(
    monkeypatch: pytest.MonkeyPatch, is_attached: bool, axis: NormAxis, gradient: NormGradient
) -> None:
    refreshes = 0
    original = algebra.factored_squared_norms

    def counted(base_squared: torch.Tensor, *arguments: Any) -> torch.Tensor:
        nonlocal refreshes
        refreshes += len(base_squared)
        return original(base_squared, *arguments)

    monkeypatch.setattr(algebra, "factored_squared_norms", counted)
    model = Blocks(checkpointed(reentrant=False))
    adapter = inject(model, AdapterSpec(norm_axis=axis, norm_gradient=gradient, rank=3))
    optimizer = torch.optim.AdamW(adapter.parameter_groups(1e-2))
    if is_attached:
        adapter.attach(optimizer)
    model(torch.randn(5, 24))
    refreshes = 0
    for step in range(3):
        for _ in range(4):
            model(torch.randn(5, 24)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert refreshes == 2 * (step + is_attached)
    model(torch.randn(5, 24))
    assert refreshes == 2 * 3
    layer = adapter.low_rank["first"]
    assert isinstance(layer, DoraLayer)
    combined = layer.base.weight + algebra.low_rank_delta(layer.down, layer.up, layer.scale)
    assert error(layer.norm, algebra.squared_norm(combined, axis).sqrt()) < 1e-6


def test_writes_that_pytorch_does_not_count_are_seen_once_an_optimizer_is_attached() -> None:
    class Uncounted(torch.optim.SGD):
        """As optimizers with kernels of their own do: writes through `.data`."""

        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data = parameter.data - group["lr"] * parameter.grad

    model, adapter, layer = one_layer(nn.Linear(24, 40), AdapterSpec(rank=3))
    optimizer = Uncounted(adapter.parameters(), lr=0.05)
    adapter.attach(optimizer)
    x = torch.randn(6, 24)
    model(x).square().sum().backward()
    optimizer.step()
    assert error(model(x), dense_output(layer, dense_weight(layer, "input", "detached"), x)) < 2e-6


def test_a_changed_base_weight_is_noticed() -> None:
    model, _, layer = one_layer(nn.Linear(24, 40), AdapterSpec(rank=3))
    x = torch.randn(6, 24)
    model(x)
    layer.base.load_state_dict(nn.Linear(24, 40).state_dict())
    assert error(model(x), dense_output(layer, dense_weight(layer, "input", "detached"), x)) < 2e-6


def test_an_in_place_consumer_of_the_output_axis_is_an_error_and_not_a_wrong_gradient() -> None:
    for axis in AXES:
        model, _, _ = one_layer(nn.Linear(24, 40), AdapterSpec(norm_axis=axis, rank=3))
        loss = model(torch.randn(6, 24)).relu_().sum()
        if axis == "output":
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            loss.backward()


@pytest.mark.parametrize("spec", [AdapterSpec(kind="lora", rank=3), *(AdapterSpec(norm_axis=a, rank=3) for a in AXES)])
def test_gradients_reach_every_learned_tensor_and_no_other(spec: AdapterSpec) -> None:
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 8))
    adapter = inject(model, replace(spec, include=("0",)))
    move(adapter.low_rank["0"])
    model(torch.randn(6, 24)).square().sum().backward()
    learned = set(adapter.parameters())
    assert all(parameter.grad is not None and parameter.grad.norm() > 0 for parameter in learned)
    rest = {name for name, parameter in model.named_parameters() if parameter not in learned and parameter.grad is None}
    assert rest == {"0.base.weight", "0.base.bias"}  # layer 2 is not adapted: it still learns, if its owner wants


def test_printing_a_model_says_what_was_injected() -> None:
    model, _, _ = one_layer(nn.Linear(24, 40), AdapterSpec(norm_axis="output", rank=3, alpha=6))
    assert "dora, rank=3, scale=2, axis=output, gradient=detached" in str(model)
