"""What each program makes of a file: proven against those that can be installed; the facts that decide what to ship."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from lycoris.modules.locon import LoConModule
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dora_core.consumers import BY_KEY, CONSUMERS, Consumer, comfyui, input_axis_only, rendered_weight
from dora_core.state import LayerWeights

SHAPES = [(48, 32), (40, 40), (16, 64), (24, 16, 3, 3), (20, 20, 3, 3), (24, 16, 1, 1)]
AXES = {"output": 0, "input": 1}
STRENGTHS = [1.0, 0.5, 1.5, -1.0, 0.0]
RANK = 4


@dataclass(frozen=True)
class Sample:
    """A DoRA layer of a typical size: the update 5 % of the weight, magnitudes drifted by 2 %, alpha half the rank."""

    weight: Tensor
    layer: LayerWeights

    def rendered(self, key: str, strength: float = 1.0, magnitude: Tensor | None = None) -> Tensor:
        consumer = BY_KEY[key]
        stored = self.layer.magnitude if magnitude is None else magnitude
        update = self.layer.delta(consumer.product_dtype)
        return rendered_weight(consumer, self.weight, update, stored, strength).double()

    def ideal(self, axis: str, strength: float = 1.0) -> Tensor:
        assert self.layer.magnitude is not None
        combined = self.weight.double() + self.layer.delta()
        adapted = self.layer.magnitude.double() * combined / norm(combined, axis)
        return self.weight.double() + strength * (adapted - self.weight.double())

    def error(self, key: str, axis: str, strength: float = 1.0, magnitude: Tensor | None = None) -> float:
        """Relative to the update at strength 1."""
        wrong = self.rendered(key, strength, magnitude) - self.ideal(axis, strength)
        return float(wrong.norm() / (self.ideal(axis) - self.weight.double()).norm())


def norm(weight: Tensor, axis: str) -> Tensor:
    others = [d for d in range(weight.dim()) if d != AXES[axis]]
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True)


def sample(shape: tuple[int, ...], axis: str, size: float = 0.05, drift: float = 0.02, seed: int = 0) -> Sample:
    torch.manual_seed(seed)
    out, inputs, *kernel = shape
    # rows and columns of unequal length, so that no norm can stand in for another
    weight = torch.randn(shape) * torch.rand(out, 1, *[1] * len(kernel)).add(0.5)
    weight = weight * torch.rand(1, inputs, *[1] * len(kernel)).add(0.5) * inputs**-0.5
    down, up = torch.randn(RANK, inputs, *kernel), torch.randn(out, RANK, *[1] * len(kernel))
    unscaled = LayerWeights(down, up, alpha=RANK / 2)
    up = up * float(size * weight.norm() / unscaled.delta().norm())
    combined_norm = norm(weight + LayerWeights(down, up, RANK / 2).delta(torch.float32), axis)
    magnitude = combined_norm * (1 + drift * torch.randn_like(combined_norm))
    return Sample(weight, LayerWeights(down, up, RANK / 2, magnitude))


# --- against the installed programs -----------------------------------------------------------------------------------


def base_module(weight: Tensor) -> nn.Linear | nn.Conv2d:
    out, inputs, *kernel = weight.shape
    module = nn.Conv2d(inputs, out, kernel[0], bias=False) if kernel else nn.Linear(inputs, out, bias=False)
    module.weight.data.copy_(weight)
    return module


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_lycoris_formula_is_lycoris(shape: tuple[int, ...], axis: str, strength: float) -> None:
    """LyCORIS' own module with our tensors in it, merged at that strength."""
    case = sample(shape, axis)
    module = LoConModule(
        "layer",
        base_module(case.weight),
        lora_dim=RANK,
        alpha=case.layer.alpha,  # pyright: ignore[reportArgumentType]  (LyCORIS annotates int, uses float)
        weight_decompose=True,
        wd_on_out=axis == "output",
    )
    module.load_state_dict(
        {
            "lora_up.weight": case.layer.up,
            "lora_down.weight": case.layer.down,
            "alpha": torch.tensor(case.layer.alpha),
            "dora_scale": case.layer.magnitude,
        }
    )
    theirs = module.get_merged_weight(multiplier=strength)[0].double()  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(case.rendered("lycoris", strength), theirs, rtol=0, atol=1e-6)


def peft_layer(weight: Tensor, layer: LayerWeights, magnitude: Tensor) -> nn.Module:
    config = LoraConfig(r=RANK, lora_alpha=int(layer.alpha), use_dora=True, target_modules=["0"])
    module = inject_adapter_in_model(config, nn.Sequential(base_module(weight))).get_submodule("0")
    with torch.no_grad():
        module.get_parameter("lora_A.default.weight").copy_(layer.down)
        module.get_parameter("lora_B.default.weight").copy_(layer.up)
        stored = module.get_parameter("lora_magnitude_vector.default.weight")
        stored.copy_(magnitude.reshape(stored.shape))
    return module


def acting_weight(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The dense weight that a module without bias acts as: its answers to the unit inputs of one kernel's size."""
    _out, inputs, *kernel = shape
    units = torch.eye(math.prod((inputs, *kernel))).reshape(-1, inputs, *kernel)
    with torch.no_grad():
        return module(units).flatten(1).T.reshape(shape).double()


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_peft_formula_is_peft(shape: tuple[int, ...], strength: float) -> None:
    """The dense weight that PEFT's own layer acts as, at every strength that diffusers' set_adapters can ask for."""
    case = sample(shape, "output")
    assert case.layer.magnitude is not None
    module = peft_layer(case.weight, case.layer, case.layer.magnitude)
    assert isinstance(module, LoraLayer)
    module.set_scale("default", strength)
    torch.testing.assert_close(case.rendered("diffusers", strength), acting_weight(module, shape), rtol=0, atol=1e-6)


def test_peft_takes_the_magnitude_of_a_square_convolution_for_its_own_whatever_the_axis() -> None:
    """(1, c, 1, 1) is PEFT's shape for the output axis: an input-axis magnitude loads there and means another thing."""
    case = sample((20, 20, 3, 3), "input")
    assert case.layer.magnitude is not None
    module = peft_layer(case.weight, case.layer, case.layer.magnitude)
    assert module.get_parameter("lora_magnitude_vector.default.weight").shape == case.layer.magnitude.shape
    torch.testing.assert_close(case.rendered("diffusers"), acting_weight(module, (20, 20, 3, 3)), rtol=0, atol=1e-6)
    assert case.error("diffusers", "input") > 5


# --- who renders which axis -------------------------------------------------------------------------------------------

INTERPOLATING = ["comfyui", "forge", "a1111", "sdnext", "invokeai"]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", INTERPOLATING)
def test_the_input_axis_is_exact_in_every_user_interface_at_every_strength(
    key: str, shape: tuple[int, ...], strength: float
) -> None:
    assert sample(shape, "input").error(key, "input", strength) < 2e-5


@pytest.mark.parametrize(
    ("key", "exact"),
    [("lycoris", True), ("sdnext", True), ("diffusers", True), ("comfyui", False), ("forge", False), ("a1111", False)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_output_axis_is_exact_in_some_programs_only(key: str, exact: bool, shape: tuple[int, ...]) -> None:
    error = sample(shape, "output").error(key, "output")
    assert error < 2e-5 if exact else error > 0.03


@pytest.mark.parametrize(("size", "least", "most"), [(0.05, 0.05, 0.3), (0.5, 0.3, 0.9)])
def test_comfyui_divides_the_output_axis_by_the_norm_of_the_base_weight(size: float, least: float, most: float) -> None:
    """An error that grows with the adapter: some tenths of its effect at 5 % of the weight, half at 50 %."""
    errors = [sample(shape, "output", size).error("comfyui", "output") for shape in SHAPES]
    assert least < max(errors) < most


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", ["a1111", "invokeai"])
def test_the_output_axis_is_garbage_where_only_the_input_axis_is_known(key: str, shape: tuple[int, ...]) -> None:
    """An outer product of magnitudes and norms: many times the whole update, square layers included."""
    assert sample(shape, "output").error(key, "output") > 3


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_compensated_magnitude_makes_the_output_axis_exact_in_comfyui(
    shape: tuple[int, ...], strength: float
) -> None:
    case = sample(shape, "output")
    assert case.layer.magnitude is not None
    combined = case.weight + case.layer.delta(torch.float32)
    compensated = case.layer.magnitude * norm(case.weight, "output") / norm(combined, "output")
    assert case.error("comfyui", "output", strength, compensated) < 2e-5
    if strength == 1.0:  # and nowhere else
        assert case.error("lycoris", "output", 1.0, compensated) > 0.02
        assert case.error("a1111", "output", 1.0, compensated) > 3


@pytest.mark.parametrize("axis", AXES)
def test_readers_without_dora_lose_the_whole_magnitude(axis: str) -> None:
    case = sample((48, 32), axis)
    for key in ("plain", "sdcpp", "diffusers-kohya"):
        assert case.error(key, axis) > 0.2
        torch.testing.assert_close(case.rendered(key), case.weight.double() + case.layer.delta(), rtol=0, atol=1e-6)


# --- strength ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "axis"), [("lycoris", "output"), ("lycoris", "input"), ("diffusers", "output")])
def test_strength_is_no_straight_line_in_lycoris_and_diffusers(key: str, axis: str) -> None:
    """Neither gives back the base model at 0: LyCORIS keeps the low-rank update, PEFT the magnitudes."""
    case = sample((48, 32), axis)
    assert case.error(key, axis, 1.0) < 2e-5
    assert case.error(key, axis, 0.5) > 0.1
    assert case.error(key, axis, 0.0) > 0.2
    assert not BY_KEY[key].interpolates


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.key)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_plain_lora_is_the_same_everywhere_at_every_strength(consumer: Consumer, strength: float) -> None:
    case = sample((48, 32), "input")
    rendered = rendered_weight(consumer, case.weight, case.layer.delta(consumer.product_dtype), None, strength).double()
    ideal = case.weight.double() + strength * case.layer.delta()
    unit = torch.finfo(consumer.result_dtype).eps
    assert float((rendered - ideal).norm() / ideal.norm()) < unit


# --- a magnitude without its dimensions -------------------------------------------------------------------------------


def test_a_flat_magnitude_is_misread_on_square_layers_and_refused_on_convolutions() -> None:
    square = sample((40, 40), "input")
    assert square.layer.magnitude is not None
    flat = square.layer.magnitude.flatten()
    assert square.error("comfyui", "input", magnitude=flat) > 3
    assert square.error("a1111", "input", magnitude=flat) < 2e-5
    assert square.error("sdnext", "input", magnitude=flat) < 2e-5
    convolution = sample((24, 16, 3, 3), "input")
    assert convolution.layer.magnitude is not None
    for key in ("comfyui", "a1111", "invokeai"):
        with pytest.raises(RuntimeError, match="must match"):
            convolution.rendered(key, magnitude=convolution.layer.magnitude.flatten())


def test_sdnext_takes_a_flat_magnitude_of_a_square_layer_for_the_input_axis() -> None:
    square, rectangular = sample((40, 40), "output"), sample((48, 32), "output")
    assert square.layer.magnitude is not None
    assert rectangular.layer.magnitude is not None
    assert square.error("sdnext", "output", magnitude=square.layer.magnitude.flatten()) > 3
    assert rectangular.error("sdnext", "output", magnitude=rectangular.layer.magnitude.flatten()) < 2e-5


def test_a_layer_with_one_output_is_taken_for_the_output_axis_by_comfyui() -> None:
    """Its test, m.shape[0] == weight.shape[0], is true of (1, in) as well."""
    case = sample((1, 16), "input")
    assert case.error("comfyui", "input") > 0.01
    assert case.error("a1111", "input") < 2e-5


# --- half precision ---------------------------------------------------------------------------------------------------


def test_the_added_eps_shrinks_a_layer_by_eps_over_its_norm() -> None:
    """ComfyUI in float16 adds 1e-3 to every norm; at norms of 0.1 the layer loses a hundredth of its length."""
    weight = torch.full((64, 8), 0.1 / 8)  # every column has norm 0.1
    magnitude = norm(weight, "input")
    rendered = rendered_weight(BY_KEY["comfyui-fp16"], weight, torch.zeros_like(weight), magnitude, 1.0).double()
    shrink = 1 - float(rendered.norm() / weight.norm())
    assert shrink == pytest.approx(torch.finfo(torch.float16).eps / 0.1, rel=0.1)
    assert (
        float((rendered_weight(BY_KEY["comfyui"], weight, torch.zeros_like(weight), magnitude, 1.0) - weight).norm())
        < 1e-5
    )


@pytest.mark.parametrize("consumer", [c for c in CONSUMERS if c.is_half], ids=lambda consumer: consumer.key)
@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_adds_noise_but_no_other_meaning(consumer: Consumer, shape: tuple[int, ...]) -> None:
    case = sample(shape, "input")
    limit = 0.4 if consumer.result_dtype == torch.bfloat16 else 0.06
    assert 1e-3 < case.error(consumer.key, "input") < limit


def test_a_zero_magnitude_and_a_zero_column_without_eps() -> None:
    """m = 0 silences a column; a column that is zero in V has no direction, and without an eps it becomes NaN."""
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    magnitude = norm(weight, "input")
    magnitude[0, 1] = 0
    assert comfyui(weight, torch.zeros(5, 3), magnitude, 1.0)[:, 1].abs().max() == 0
    gone = weight.clone()
    gone[:, 2] = 0
    assert comfyui(gone, torch.zeros(5, 3), magnitude, 1.0).isfinite().all()
    assert input_axis_only(gone, torch.zeros(5, 3), magnitude, 1.0)[:, 2].isnan().all()
