"""Injection does what its plan says, refuses with a reason and without a trace, and ejection undoes it exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_core import Adapter, AdapterSpec, DoraLayer, TargetRule, eject, inject, iter_targets, plan_targets
from tests.dora_core.layer_cases import move


class Attention(nn.Module):
    def __init__(self, size: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(size, size + 4, bias=False)
        self.to_k = nn.Linear(context, size + 4, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(size + 4, size), nn.Dropout(0.0)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_out[1](self.to_out[0](self.to_q(x) * self.to_k(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 20, 3, padding=1)
        self.blocks = nn.ModuleList([Attention(20, 20), Attention(20, 20)])
        self.norm = nn.LayerNorm(20)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(image).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(self.norm(x))
        return x


@pytest.fixture
def model() -> Model:
    torch.manual_seed(3)
    return Model()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(4))


def names(model: nn.Module, spec: AdapterSpec) -> list[str]:
    return [target.name for target in iter_targets(model, spec)]


def test_patterns_choose_layers_by_their_path_in_the_base_model(model: Model) -> None:
    assert len(names(model, AdapterSpec())) == 7
    assert names(model, AdapterSpec(include=("*.to_q", "*.to_out.0"), exclude=("blocks.0.*",))) == [
        "blocks.1.to_q",
        "blocks.1.to_out.0",
    ]


def test_rank_and_alpha_come_from_the_last_rule_that_matches_then_from_the_kernel_then_from_the_spec(
    model: Model,
) -> None:
    spec = AdapterSpec(
        rank=6,
        alpha=3,
        conv_rank=5,
        conv_alpha=10,
        rules=(TargetRule("blocks.*", 4), TargetRule("*.to_k", 2, alpha=8), TargetRule("blocks.1.to_out.0", 3)),
        exclude=("blocks.0.to_q",),
    )
    found = {target.name: (target.rank, target.scale) for target in iter_targets(model, spec)}
    assert found == {
        "conv_in": (5, 10 / 5),
        "blocks.0.to_k": (2, 8 / 2),
        "blocks.0.to_out.0": (4, 1.0),
        "blocks.1.to_q": (4, 1.0),
        "blocks.1.to_k": (2, 8 / 2),
        "blocks.1.to_out.0": (3, 1.0),
    }


@pytest.mark.parametrize(
    ("spec", "scale"),
    [
        (AdapterSpec(rank=6, alpha=3), 3 / 6),
        (AdapterSpec(rank=6), 1.0),
        (AdapterSpec(rank=6, conv_rank=4), 1.0),
        (AdapterSpec(rank=6, alpha=3, conv_rank=4), 3 / 4),
        (AdapterSpec(rank=6, alpha=3, conv_alpha=5), 5 / 6),
        (AdapterSpec(rank=6, alpha=3, conv_rank=4, conv_alpha=5), 5 / 4),
        (AdapterSpec(rank=6, alpha=3, conv_rank=4, conv_alpha=5, rank_stabilised=True), 5 / 2),
    ],
)
def test_alpha_of_a_convolution(model: Model, spec: AdapterSpec, scale: float) -> None:
    assert next(iter_targets(model, spec)).scale == scale


def test_the_plan_counts_what_injection_makes(model: Model) -> None:
    for spec in (
        AdapterSpec(kind="lora", rank=5),
        AdapterSpec(norm_axis="input", rank=5),
        AdapterSpec(norm_axis="output", rank=5),
    ):
        plan = plan_targets(model, spec)
        adapter = inject(model, spec)
        assert plan.parameters == sum(parameter.numel() for parameter in adapter.parameters())
        assert plan.mib == plan.parameters * 4 / 2**20
        shown = str(plan)
        assert f"7 layers, {plan.parameters:,} parameters" in shown
        assert all(target.name in shown for target in plan.targets)
        eject(model)


def test_a_rank_above_a_layers_own_limit_is_clamped_there_with_its_scale_kept(model: Model) -> None:
    with pytest.warns(UserWarning, match=r"5 ranks are clamped: rank 21 is clamped to 20, the full rank of conv_in; "):
        adapter = inject(model, AdapterSpec(rank=21, alpha=12, rules=(TargetRule("*.to_q", 8),)))
    assert adapter.low_rank["blocks.0.to_k"].rank == 20  # (24, 20)
    assert adapter.low_rank["blocks.0.to_k"].scale == 12 / 21
    assert adapter.low_rank["blocks.0.to_q"].rank == 8
    eject(model)
    with pytest.raises(ValueError, match=r"above what any layer can hold: rank 24 is clamped to 20.*Lower it"):
        inject(model, AdapterSpec(rank=24, include=("*.to_k", "*.to_q")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AdapterSpec(include=("*.to_qq",)), r"include pattern '\*.to_qq' matches no .*; near it: to_q"),
        (
            AdapterSpec(include=("*.to_q", "*.attn.to_k")),
            r"'\*.attn.to_k' matches no .*; near it: [01].to_k, [01].to_k",
        ),
        (AdapterSpec(exclude=("conv_im",)), r"exclude pattern 'conv_im' matches no .*; near it: conv_in"),
        (AdapterSpec(rules=(TargetRule("*.to_v", 4),)), r"rule pattern '\*.to_v' matches no .*; near it: to_"),
        (AdapterSpec(include=("norm",)), r"include pattern 'norm' matches no Linear or Conv2d"),
        (AdapterSpec(include=("*.to_q",), exclude=("blocks.*",)), r"no layer is left .*\*.to_q.*blocks"),
        (AdapterSpec(rank=64), "above what any layer can hold"),
    ],
)
def test_what_cannot_be_injected_is_an_error_that_names_it_and_changes_nothing(
    model: Model, spec: AdapterSpec, message: str
) -> None:
    before = contents(model)
    with pytest.raises(ValueError, match=message):
        inject(model, spec)
    assert contents(model) == before


def test_injecting_twice_is_an_error_that_changes_nothing(model: Model) -> None:
    inject(model, AdapterSpec(rank=4, include=("*.to_q",)))
    before = contents(model)
    with pytest.raises(ValueError, match=r"adapted already, at 2 layers, first blocks.0.to_q: eject"):
        inject(model, AdapterSpec(rank=4, include=("*.to_k",)))
    assert contents(model) == before


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(8, 12, 3, groups=4), r"groups=4: only groups=1"),
        (nn.MultiheadAttention(8, 2).out_proj, "NonDynamicallyQuantizableLinear is not a plain"),
    ],
)
def test_a_layer_that_cannot_be_adapted_is_refused_by_name_and_reason(module: nn.Module, reason: str) -> None:
    model = nn.ModuleDict({"good": nn.Linear(8, 12), "bad": module})
    before = contents(model)
    with pytest.raises(ValueError, match=f"bad cannot be adapted: .*{reason}.*Exclude it"):
        inject(model, AdapterSpec(rank=4))
    assert contents(model) == before
    inject(model, AdapterSpec(rank=4, exclude=("bad*",)))


def test_a_module_with_two_parents_is_refused_with_both_names() -> None:
    shared = nn.Linear(8, 12)
    model = nn.ModuleDict({"one": shared, "two": shared, "three": nn.Linear(8, 12)})
    with pytest.raises(ValueError, match="one and two are one module"):
        inject(model, AdapterSpec(rank=4))
    inject(model, AdapterSpec(rank=4, exclude=("one", "two")))


def test_a_model_that_is_itself_the_layer_has_no_parent_to_put_another_in() -> None:
    with pytest.raises(ValueError, match=r"include pattern '\*' matches no Linear or Conv2d"):
        inject(nn.Linear(8, 12), AdapterSpec(rank=4))


@pytest.mark.parametrize(
    "values",
    [{"rank": 0}, {"conv_rank": -1}, {"dropout": 1.0}, {"kind": "loha"}, {"norm_axis": "rows"}, {"alpha": 0.0}],
)
def test_a_spec_that_says_nothing_sensible_cannot_be_made(values: dict[str, object]) -> None:
    name, value = next(iter(values.items()))
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        AdapterSpec(**values)  # type: ignore[arg-type]


def test_eject_restores_the_very_same_modules_keys_flags_and_outputs(model: Model, image: torch.Tensor) -> None:
    model.conv_in.weight.requires_grad_(False)
    modules, before, output = dict(model.named_modules()), contents(model), model(image)
    adapter = inject(model, AdapterSpec(rank=4))
    for layer in adapter.low_rank.values():
        move(layer)
    assert not torch.equal(model(image), output)
    eject(model)
    assert all(module is modules[name] for name, module in model.named_modules())
    assert list(dict(model.named_modules())) == list(modules)
    assert contents(model) == before
    assert torch.equal(model(image), output)
    with pytest.raises(ValueError, match="holds no adapter"):
        eject(model)


def test_names_are_those_of_the_base_model(model: Model) -> None:
    adapter = inject(model, AdapterSpec(rank=4))
    assert list(adapter.layers) == names(Model(), AdapterSpec())
    assert list(adapter.state().layers) == list(adapter.layers)


def test_the_start_of_a_layer_depends_on_seed_and_name_and_not_on_its_neighbours() -> None:
    def starts(seed: int, *include: str) -> dict[str, torch.Tensor]:
        adapter = inject(Model(), AdapterSpec(rank=4, include=include), seed=seed)
        return {name: layer.down for name, layer in adapter.low_rank.items()}

    few, many, other = starts(1, "*.to_k"), starts(1, "*"), starts(2, "*.to_k")
    assert all(torch.equal(few[name], many[name]) for name in few)
    assert not torch.equal(few["blocks.0.to_k"], few["blocks.1.to_k"])
    assert not torch.equal(few["blocks.0.to_k"], other["blocks.0.to_k"])
    bound = 1 / 20**0.5  # kaiming uniform with a = sqrt(5): 1 / sqrt(inputs)
    assert 0.9 * bound < few["blocks.0.to_k"].abs().max() <= bound


def test_the_start_is_the_same_whatever_random_numbers_were_drawn_before() -> None:
    def start() -> torch.Tensor:
        return inject(Model(), AdapterSpec(rank=4, include=("conv_in",))).low_rank["conv_in"].down

    first = start()
    torch.rand(7)
    state = torch.get_rng_state()
    Model()
    torch.set_rng_state(state)
    assert torch.equal(first, start())


def test_several_models_are_injected_together_under_their_keys(image: torch.Tensor) -> None:
    models = {"unet": Model(), "text_encoder": nn.Sequential(nn.Linear(8, 12))}
    spec = AdapterSpec(rank=4, rules=(TargetRule("text_encoder.*", 2),))
    adapter = inject(nn.ModuleDict(models), spec)
    assert adapter.low_rank["text_encoder.0"].rank == 2
    assert isinstance(models["unet"].conv_in, DoraLayer)
    assert adapter.low_rank["unet.conv_in"] is models["unet"].conv_in
    models["unet"](image)
    for single in models.values():
        eject(single)


def contents(model: nn.Module) -> dict[str, tuple[int, bool]]:
    """Every parameter by name: which object it is and whether it learns; and every module by name."""
    parameters = {name: (id(value), value.requires_grad) for name, value in model.named_parameters()}
    return parameters | {f"module {name}": (id(module), True) for name, module in model.named_modules()}


def test_the_handle_is_an_adapter_of_the_spec(model: Model) -> None:
    spec = AdapterSpec(rank=4)
    adapter = inject(model, spec)
    assert isinstance(adapter, Adapter)
    assert adapter.spec is spec
