"""Magnitude and direction: the paper's definitions, closed forms of single vectors, factors against dense weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dora_core.analysis import (
    Adaptation,
    LayerChange,
    analyze_adaptation,
    change_correlation,
    decompose,
    recompose,
)
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, LayerWeights

SHAPES = [(7, 5), (6, 6), (7, 5, 3, 3), (4, 9, 1, 1)]
AXES: list[NormAxis] = ["input", "output"]
RANK = 3


def vectors(weight: Tensor, axis: NormAxis) -> Tensor:
    """One row per vector."""
    return (weight if axis == "output" else weight.transpose(0, 1)).flatten(1)


def base_and_layer(shape: tuple[int, ...], axis: NormAxis, is_dora: bool, size: float) -> tuple[Tensor, LayerWeights]:
    generator = torch.Generator().manual_seed(len(shape))
    out, inputs, *kernel = shape
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    down = torch.randn(RANK, inputs, *kernel, generator=generator, dtype=torch.float64)
    up = size * torch.randn(out, RANK, *[1] * len(kernel), generator=generator, dtype=torch.float64)
    norms = decompose(weight, axis).magnitude
    drift = 1 + size * torch.randn(norms.shape, generator=generator, dtype=torch.float64)
    return weight, LayerWeights(down, up, alpha=2 * RANK, magnitude=norms * drift if is_dora else None)


def adapted_weight(weight: Tensor, layer: LayerWeights, axis: NormAxis) -> Tensor:
    combined = weight + layer.delta()
    if layer.magnitude is None:
        return combined
    return layer.magnitude * decompose(combined, axis).direction


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", SHAPES)
def test_decompose_gives_lengths_and_unit_vectors_and_recompose_undoes_it(
    shape: tuple[int, ...], axis: NormAxis
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[0] = 0
    weight[:, 1] = 0
    parts = decompose(weight, axis)
    assert parts.magnitude.dim() == weight.dim()
    own = 0 if axis == "output" else 1
    assert parts.magnitude.numel() == parts.magnitude.shape[own] == weight.shape[own]
    lengths = vectors(parts.direction, axis).norm(dim=1)
    expected = torch.ones_like(lengths)
    expected[0 if axis == "output" else 1] = 0
    torch.testing.assert_close(lengths, expected)
    torch.testing.assert_close(recompose(parts), weight, rtol=1e-15, atol=0)


@pytest.mark.parametrize("size", [1e-3, 0.3])
@pytest.mark.parametrize("is_dora", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shape", SHAPES)
def test_factors_and_dense_weights_both_give_the_definitions_of_the_paper(
    shape: tuple[int, ...], axis: NormAxis, is_dora: bool, size: float
) -> None:
    weight, layer = base_and_layer(shape, axis, is_dora, size)
    adapted = adapted_weight(weight, layer, axis)
    before, after = vectors(weight, axis), vectors(adapted, axis)

    state = AdapterState({"a": layer}, axis if is_dora else None)
    for result in (
        analyze_adaptation({"a": weight}, state, axis),
        analyze_adaptation({"a": weight}, {"a": adapted}, axis),
    ):
        (change,) = result.layers
        assert change.magnitude_change == pytest.approx(
            float((after.norm(dim=1) - before.norm(dim=1)).abs().mean()), rel=1e-9
        )
        assert change.direction_change == pytest.approx(float((1 - cosine_similarity(after, before)).mean()), rel=1e-9)
        assert change.update_norm == pytest.approx(float((adapted - weight).norm()), rel=1e-10)
        assert change.relative_update == pytest.approx(float((adapted - weight).norm() / weight.norm()), rel=1e-10)
        assert change.drift == pytest.approx(
            float(1 - cosine_similarity(adapted.flatten(), weight.flatten(), 0)), rel=1e-9
        )


@pytest.mark.parametrize("angle", [1e-1, 1e-4, 1e-7, 1e-10])
def test_the_smallest_turns_are_not_lost(angle: float) -> None:
    """A row (3, 0) plus (0, t) turns by atan(t / 3); 1 - cos = 2 sin^2(angle / 2) can be far below 1e-16."""
    weight = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    layer = LayerWeights(
        down=torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        up=torch.tensor([[3 * math.tan(angle)]], dtype=torch.float64),
        alpha=1.0,
    )
    (change,) = analyze_adaptation({"a": weight}, AdapterState({"a": layer}), "output").layers
    expected = 2 * math.sin(angle / 2) ** 2
    assert change.direction_change == pytest.approx(expected, rel=1e-9)
    assert change.magnitude_change == pytest.approx(3 * expected / math.cos(angle), rel=1e-9)
    assert change.drift == pytest.approx(expected, rel=1e-5)


def test_a_rotation_has_no_change_of_magnitude_and_a_scaling_none_of_direction() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64))
    rotated = analyze_adaptation({"a": weight}, {"a": weight @ rotation}, "output")
    assert rotated.magnitude_change == pytest.approx(0, abs=1e-12)
    assert rotated.direction_change > 0.1
    scaled = analyze_adaptation({"a": weight}, {"a": weight * torch.linspace(0.5, 2, 4)}, "input")
    assert scaled.direction_change == pytest.approx(0, abs=1e-15)
    assert scaled.magnitude_change > 0.1
    assert analyze_adaptation({"a": weight}, {"a": weight}, "input").drift == 0


def test_vectors_that_are_zero_or_turned_round_count_as_the_dense_weight_says() -> None:
    weight, layer = base_and_layer((7, 5), "input", True, 0.3)
    assert layer.magnitude is not None
    magnitude = layer.magnitude.clone()
    magnitude[0, 1], magnitude[0, 2] = 0.0, -magnitude[0, 2]
    turned = LayerWeights(layer.down, layer.up, layer.alpha, magnitude)
    dense = adapted_weight(weight, turned, "input")
    from_factors = analyze_adaptation({"a": weight}, AdapterState({"a": turned}, "input")).layers[0]
    from_dense = analyze_adaptation({"a": weight}, {"a": dense}, "input").layers[0]
    assert from_factors.update_norm == pytest.approx(from_dense.update_norm, rel=1e-12)
    assert from_factors.magnitude_change == pytest.approx(from_dense.magnitude_change, rel=1e-12)
    assert from_dense.direction_change == pytest.approx(
        float((1 - cosine_similarity(dense.T, weight.T, eps=1e-300))[[0, 2, 3, 4]].sum() / 5), rel=1e-9
    )


def test_the_whole_model_is_the_mean_of_its_layers_and_one_long_vector() -> None:
    weights = {"a": base_and_layer((7, 5), "output", True, 0.2), "b": base_and_layer((4, 9, 1, 1), "output", True, 0.4)}
    base = {name: weight for name, (weight, _) in weights.items()}
    dense = {name: adapted_weight(weight, layer, "output") for name, (weight, layer) in weights.items()}
    result = analyze_adaptation(base, AdapterState({name: layer for name, (_, layer) in weights.items()}, "output"))
    before, after = (torch.cat([t.flatten() for t in tensors.values()]) for tensors in (base, dense))
    assert result.update_norm == pytest.approx(float((after - before).norm()))
    assert result.relative_update == pytest.approx(float((after - before).norm() / before.norm()))
    assert result.drift == pytest.approx(float(1 - cosine_similarity(after, before, 0)))
    assert result.magnitude_change == pytest.approx(sum(layer.magnitude_change for layer in result.layers) / 2)
    assert result.direction_change == pytest.approx(sum(layer.direction_change for layer in result.layers) / 2)


def test_the_correlation_is_pearsons_over_layers() -> None:
    def layer(direction: float, magnitude: float) -> LayerChange:
        return LayerChange("x", magnitude, direction, 1.0, 1.0, 0.1)

    points = [(0.1, 0.5), (0.2, 0.3), (0.4, 0.35), (0.5, 0.1)]
    expected = float(torch.corrcoef(torch.tensor(points, dtype=torch.float64).T)[0, 1])
    assert change_correlation(layer(d, m) for d, m in points) == pytest.approx(expected)
    assert change_correlation([layer(0.1, 0.5)]) is None
    assert change_correlation([layer(0.1, 0.5), layer(0.1, 0.6)]) is None


def test_the_table_has_every_layer_largest_update_first() -> None:
    layers = (LayerChange("small", 0.1, 0.1, 2.0, 2.0, 0.1), LayerChange("large", 0.1, 0.1, 2.0, 2.0, 1.0))
    lines = Adaptation("input", layers).table().splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "large", "small", "all"]
    assert "50.0000%" in lines[1]


def test_what_does_not_belong_to_the_base_is_refused() -> None:
    weight, layer = base_and_layer((7, 5), "input", True, 0.1)
    state = AdapterState({"a": layer}, "input")
    with pytest.raises(ValueError, match="lacks 1 of 1 adapted layers, first a"):
        analyze_adaptation({"b": weight}, state)
    with pytest.raises(ValueError, match=r"layer a is \[5, 7\] in the base model and \[7, 5\]"):
        analyze_adaptation({"a": weight.T}, state)
    with pytest.raises(ValueError, match="norm axis is input"):
        analyze_adaptation({"a": weight}, state, "output")
