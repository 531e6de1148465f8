"""The handle of an adapter: what is learned at which rate, state that goes out and comes back, merging and moving."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from dora_core import Adapter, AdapterSpec, AdapterState, DoraLayer, LayerWeights, eject, inject
from dora_core.errors import FileFormatError
from tests.dora_core.layer_cases import dense_weight, error, move

SPECS = {
    "lora": AdapterSpec(kind="lora", rank=3, alpha=6),
    "output": AdapterSpec(norm_axis="output", rank=3, alpha=6),
    "input": AdapterSpec(norm_axis="input", rank=3, alpha=6),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def make(spec: AdapterSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Adapter]:
    torch.manual_seed(3)
    convolution = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.SiLU(), nn.Flatten(2), nn.Linear(20, 7)).to(dtype)
    return convolution, inject(convolution, spec, seed=seed)


def image(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 5, 4, 5, generator=torch.Generator().manual_seed(4)).to(dtype)


def moved(spec: AdapterSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Adapter]:
    model, adapter = make(spec, seed, dtype)
    for layer in adapter.low_rank.values():
        move(layer)
    return model, adapter


def test_the_magnitude_has_a_group_of_its_own_without_weight_decay() -> None:
    _, adapter = make(SPECS["input"])
    groups = adapter.parameter_groups(1e-3, weight_decay=0.1, up_factor=16, magnitude_factor=0.5)
    shapes = {group["name"]: [tuple(parameter.shape) for parameter in group["params"]] for group in groups}
    assert shapes == {
        "down": [(3, 5, 3, 3), (3, 20)],
        "up": [(8, 3, 1, 1), (7, 3)],
        "magnitude": [(1, 5, 1, 1), (1, 20)],
    }
    assert {group["name"]: group["lr"] for group in groups} == {"down": 1e-3, "up": 16e-3, "magnitude": 5e-4}
    assert {group["name"]: group["weight_decay"] for group in groups} == {"down": 0.1, "up": 0.1, "magnitude": 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(adapter.parameters())) == 6


def test_lora_has_no_magnitude_group() -> None:
    _, adapter = make(SPECS["lora"])
    assert [group["name"] for group in adapter.parameter_groups(1e-3)] == ["down", "up"]


@pytest.mark.parametrize("axis", ["output", "input"])
def test_the_magnitude_learns_and_does_not_decay(axis: str) -> None:
    model, adapter = make(SPECS[axis])
    layer = adapter.low_rank["3"]
    assert isinstance(layer, DoraLayer)
    start = layer.magnitude.detach().clone()
    optimizer = torch.optim.AdamW(adapter.parameter_groups(1e-2, weight_decay=10.0))
    target = torch.randn(2, 8, 7)
    losses: list[float] = []
    for _ in range(30):
        loss = (model(image()) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    assert (layer.magnitude - start).abs().max() > 0.05
    before = layer.magnitude.detach().clone()
    for parameter in adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.state.clear()
    optimizer.step()  # nothing but decay
    assert torch.equal(layer.magnitude, before)


@every_spec
def test_a_state_loaded_elsewhere_computes_the_same_to_the_bit(spec: AdapterSpec) -> None:
    model, adapter = moved(spec)
    other, receiver = make(replace(spec, alpha=1.0), seed=9)
    state = adapter.state()
    receiver.load(state)
    assert torch.equal(other(image()), model(image()))
    assert state.norm_axis == (None if spec.kind == "lora" else spec.norm_axis)
    assert [layer.alpha for layer in state.factors.values()] == [6.0, 6.0]


def test_the_state_is_a_copy_with_the_effective_alpha() -> None:
    _, adapter = moved(AdapterSpec(rank=4, alpha=2, rank_stabilised=True))
    state = adapter.state()
    before = state.factors["3"].down.clone()
    with torch.no_grad():
        adapter.low_rank["3"].down.zero_()
    assert torch.equal(state.factors["3"].down, before)
    assert state.factors["3"].scale == pytest.approx(2 / 4**0.5)
    assert not state.factors["3"].down.requires_grad


def test_a_state_that_does_not_fit_is_refused_with_three_lists_and_changes_nothing() -> None:
    _, adapter = moved(SPECS["input"])
    state = adapter.state()
    linear = state.layers["3"]
    flat = LayerWeights(linear.down, linear.up, linear.alpha, linear.magnitude.flatten())  # type: ignore[union-attr]
    bad = AdapterState({"3": flat, "elsewhere": linear}, "input")
    with pytest.raises(FileFormatError) as caught:
        adapter.load(bad)
    assert (caught.value.missing, caught.value.unexpected, caught.value.wrong_shape) == (("0",), ("elsewhere",), ("3",))
    for name, layer in adapter.state().factors.items():
        assert torch.equal(layer.down, state.factors[name].down)


def test_a_state_of_the_other_axis_is_refused_where_shapes_do_not_tell() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    adapter = inject(model, AdapterSpec(norm_axis="input", rank=2))
    weights = adapter.state().factors["0"]
    turned = AdapterState({"0": LayerWeights(weights.down, weights.up, 1.0, weights.magnitude.T)}, "output")  # type: ignore[union-attr]
    with pytest.raises(FileFormatError, match="wrong shape"):
        adapter.load(turned)
    lora = AdapterState({"0": LayerWeights(weights.down, weights.up, 1.0)})
    with pytest.raises(FileFormatError, match="wrong shape"):
        adapter.load(lora)


@every_spec
def test_merged_weights_equal_the_closed_form_and_the_forward_pass(spec: AdapterSpec) -> None:
    model, adapter = moved(spec)
    for name, layer in adapter.low_rank.items():
        assert error(adapter.merged_weight(name), dense_weight(layer, spec.norm_axis, "detached")) < 1e-6
    output = model(image())
    adapter.merge_into_base()
    assert error(model(image()), output) < 2e-6
    eject(model)  # what was merged stays, in a model without adapters
    assert error(model(image()), output) < 2e-6


@every_spec
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerge_gives_the_base_back_to_the_bit(spec: AdapterSpec, dtype: torch.dtype) -> None:
    model, adapter = moved(spec, dtype=dtype)
    keys = [(name, value.clone()) for name, value in model.state_dict().items()]
    output = model(image(dtype))
    adapter.merge_into_base()
    assert not torch.equal(model.get_parameter("0.base.weight"), dict(keys)["0.base.weight"])
    adapter.unmerge()
    assert [name for name, _ in keys] == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in keys)
    assert torch.equal(model(image(dtype)), output)


@every_spec
def test_merging_an_adapter_that_has_not_learned_changes_no_bit(spec: AdapterSpec) -> None:
    model, adapter = make(spec, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter.merge_into_base()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_spec
def test_norms_refreshed_while_merged_are_those_of_the_base_that_comes_back(spec: AdapterSpec) -> None:
    model, adapter = moved(spec)
    output = model(image())
    adapter.merge_into_base()
    adapter.load(adapter.state())
    adapter.unmerge()
    assert torch.equal(model(image()), output)


def test_while_merged_nothing_pretends_to_be_the_base() -> None:
    _, adapter = moved(SPECS["input"])
    adapter.merge_into_base()
    with pytest.raises(RuntimeError, match="unmerge"):
        adapter.strength = 0.5
    with pytest.raises(RuntimeError, match="unmerge"), adapter.disabled():
        pass
    with pytest.raises(RuntimeError, match="unmerge"):
        adapter.merge_into_base()


def test_disabled_ends_where_it_began_also_when_nested_or_left_by_an_error() -> None:
    model, adapter = moved(SPECS["input"])
    output = model(image())
    with adapter.disabled():
        with pytest.raises(KeyError), adapter.disabled():
            raise KeyError
        assert not torch.equal(model(image()), output)
    assert torch.equal(model(image()), output)


@every_spec
def test_casting_the_model_casts_the_base_and_leaves_what_is_learned_in_float32(spec: AdapterSpec) -> None:
    model, adapter = moved(spec)
    model(image())  # the norms are those of the float32 base now
    before = adapter.state()
    model.to(torch.bfloat16)
    assert {layer.base.weight.dtype for layer in adapter.low_rank.values()} == {torch.bfloat16}
    for name, layer in adapter.state().factors.items():
        assert torch.equal(layer.down, before.factors[name].down)
        assert (layer.magnitude is None) or torch.equal(layer.magnitude, before.layers[name].magnitude)  # type: ignore[arg-type]
    for layer in adapter.low_rank.values():
        layer(torch.randn(1, 5, 4, 5).bfloat16() if layer.down.dim() == 4 else torch.randn(3, 20).bfloat16())
        if isinstance(layer, DoraLayer):
            own = 0 if layer.axis == "output" else 1
            combined = layer.base.weight.double() + layer.scale * torch.einsum(
                "or,r...->o...", layer.up.double().flatten(1), layer.down.double()
            )
            assert layer.norm.dtype == torch.float32
            assert error(layer.norm, combined.transpose(0, own).flatten(1).norm(dim=1)) < 1e-6


@every_spec
def test_copies_and_pickles_of_an_adapted_model_work_and_are_independent(spec: AdapterSpec) -> None:
    model, _ = moved(spec)
    output = model(image())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(image()), output)
        with torch.no_grad():
            twin.get_parameter("3.up").add_(0.5)
        assert error(twin(image()), output) > 1e-2
        layer = twin.get_submodule("3")
        fresh = copy.deepcopy(layer)
        if isinstance(fresh, DoraLayer):
            fresh.refresh_norm()
            assert torch.equal(fresh.norm, layer.norm)  # type: ignore[arg-type]
    assert torch.equal(model(image()), output)


@every_spec
def test_the_state_dict_holds_the_base_and_what_is_learned_and_loads_again(spec: AdapterSpec) -> None:
    model, adapter = moved(spec)
    other, _ = make(spec, seed=8)
    magnitude = [] if spec.kind == "lora" else ["3.magnitude"]
    assert [key for key in model.state_dict() if key.startswith("3.")] == [
        "3.down",
        "3.up",
        *magnitude,
        "3.base.weight",
        "3.base.bias",
    ]
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(image()), model(image()))
    assert len(adapter.layers) == 2


@every_spec
def test_a_forward_in_inference_mode_does_not_spoil_training_after_it(spec: AdapterSpec) -> None:
    model, adapter = moved(spec)
    with torch.inference_mode():
        sampled = model(image())
    y = model(image())
    assert torch.equal(y, sampled)
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
