"""Full fine-tuning of a layer is a plain layer with the weight W0 + D, and D is what is learned and stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dora_core import Adapter, AdapterSpec, eject, inject, plan_targets
from dora_core.errors import FileFormatError
from dora_core.files import read_adapter, write_adapter
from dora_core.layers import FullLayer
from dora_core.state import AdapterState, FullWeights, LayerWeights
from tests.adapters import random_weights, small_modules
from tests.dora_core.layer_cases import LAYERS, PADDED, error, gradients, training_losses

FULL = AdapterSpec(kind="full")
CASES = {**LAYERS, **PADDED}


def one_full_layer(module: nn.Module, spread: float = 0.1) -> tuple[nn.Sequential, Adapter, FullLayer]:
    model = nn.Sequential(module)
    adapter = inject(model, FULL)
    layer = adapter.layers["0"]
    assert isinstance(layer, FullLayer)
    with torch.no_grad():
        layer.difference.normal_(0, spread, generator=torch.Generator().manual_seed(3))
    return model, adapter, layer


def dense(layer: FullLayer, difference: Tensor, x: Tensor) -> Tensor:
    """PyTorch's own layer with the summed weight."""
    weight = layer.base.weight.detach() + difference
    return torch.func.functional_call(layer.base, {"weight": weight}, (x,))


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel:UserWarning")  # of the reference
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_a_layer_with_the_summed_weight(case: str) -> None:
    make, shape = CASES[case]
    model, adapter, layer = one_full_layer(make().double())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for strength in (1.0, 0.4):
        adapter.strength = strength
        free = layer.difference.detach().clone().requires_grad_()
        ours, theirs = model(x), dense(layer, strength * free, x)
        assert error(ours, theirs) < 1e-12
        pairs = zip(gradients(ours, (x, layer.difference)), gradients(theirs, (x, free)), strict=True)
        assert all(error(own, true) < 1e-12 for own, true in pairs)


def test_it_starts_as_the_base_to_the_bit_and_gives_it_back() -> None:
    module, x = nn.Linear(24, 40), torch.randn(7, 24)
    before, weight = module(x), module.weight.detach().clone()
    model = nn.Sequential(module)
    inject(model, FULL)
    assert model(x).equal(before)
    eject(model)
    assert model[0] is module
    model, adapter, layer = one_full_layer(module)
    changed = model(x)
    assert error(changed, before) > 0.1
    with adapter.disabled():
        assert model(x).equal(before)
    adapter.merge_into_base()
    assert error(module(x), changed) < 1e-6
    assert module.weight.equal(weight + layer.difference)
    adapter.unmerge()
    assert module.weight.equal(weight)


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_it_starts_as_the_base_and_a_small_difference_survives_on_average(autocast: bool) -> None:
    """Rounding W0 + D to nearest would keep a tenth of a difference this small, and of most weights nothing."""
    torch.manual_seed(1)
    base = nn.Linear(256, 512, bias=False)
    base, x = (base, torch.randn(64, 256)) if autocast else (base.bfloat16(), torch.randn(64, 256).bfloat16())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = base(x)
        model = nn.Sequential(base)
        layer = inject(model, FULL).layers["0"]
        assert model(x).equal(before)
        size = 0.0005 * base.weight.detach().float()  # a quarter of what bfloat16 tells apart, of each weight its own
        layer.own_parameters()["difference"].data.copy_(size)
        effect, wanted = (model(x) - before).float(), x.float() @ size.T
    slope = (effect * wanted).sum() / wanted.square().sum()
    assert 0.9 < slope < 1.1


def test_half_precision_keeps_the_difference_in_float32() -> None:
    _, _, layer = one_full_layer(nn.Conv2d(5, 7, 3))
    layer.half()
    assert layer.base.weight.dtype == torch.float16
    assert layer.difference.dtype == torch.float32


def test_training_it_is_training_the_weight() -> None:
    torch.manual_seed(0)
    module, x, target = nn.Linear(24, 40), torch.randn(16, 24), torch.randn(16, 40)
    plain = nn.Linear(24, 40)
    plain.load_state_dict(module.state_dict())
    plain.bias.requires_grad_(False)
    theirs = training_losses(plain, [p for p in plain.parameters() if p.requires_grad], x, target)
    model = nn.Sequential(module)
    (group,) = inject(model, FULL).parameter_groups(5e-3)
    ours = training_losses(model, group["params"], x, target)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.5 * ours[0]


def test_the_plan_counts_every_weight_and_no_bias() -> None:
    model = nn.Sequential(nn.Linear(24, 40), nn.Conv2d(24, 40, 3))
    assert plan_targets(model, FULL).parameters == 24 * 40 + 24 * 40 * 9
    assert "full size" in str(plan_targets(model, FULL))
    groups = inject(model, FULL).parameter_groups(1e-3, weight_decay=0.1, up_factor=4)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [("difference", 1e-3, 0.1)]


def test_the_state_goes_round_through_a_file_and_only_the_layout_diff_holds_it(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, ["unet.conv_in", "unet.mid_block.attentions.0.proj_in"])
    state = AdapterState({name: FullWeights(0.1 * weight.flip(0)) for name, weight in base.items()})
    assert (state.kind, state.form, state.norm_axis) == ("full", "full", None)
    path = tmp_path / "x-full-difference.safetensors"
    write_adapter(path, state, modules, "diff", base=base, precision="full")
    assert sorted(load_file(path)) == ["lora_unet_conv_in.diff", "lora_unet_mid_block_attentions_0_proj_in.diff"]
    found = read_adapter(path, modules)
    assert found.info.metadata["dora_studio.kind"] == "full"
    for name, layer in state.layers.items():
        assert error(found.state.layers[name].delta(), layer.delta()) < 1e-6
    for layout in ("kohya", "peft"):
        with pytest.raises(FileFormatError, match="use the layout diff"):
            write_adapter(tmp_path / "x.safetensors", state, modules, layout)


def test_an_adapter_is_either_full_or_factors() -> None:
    factors = LayerWeights(torch.zeros(2, 5), torch.zeros(7, 2), alpha=2)
    with pytest.raises(ValueError, match="one or the other"):
        AdapterState({"a": FullWeights(torch.zeros(7, 5)), "b": factors})
