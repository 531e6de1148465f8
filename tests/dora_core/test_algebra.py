"""Norms from the factors equal norms of the dense weight, for updates of any size, and so do their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dora_core import LayerWeights, algebra
from dora_core.spec import NormAxis
from tests.dora_core.layer_cases import error

every_axis = pytest.mark.parametrize("axis", ["output", "input"])
every_shape = pytest.mark.parametrize("shape", [(40, 24), (24, 40), (12, 7, 3, 3), (7, 12, 1, 1), (9, 8, 2, 5)])
SCALE = 0.7


def factors(shape: tuple[int, ...], size: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """W0, A and B with an update of `size` times the weight."""
    generator = torch.Generator().manual_seed(sum(shape))
    rank = 5
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    down = torch.randn(rank, *shape[1:], generator=generator, dtype=torch.float64)
    up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator, dtype=torch.float64)
    up *= size * weight.norm() / algebra.low_rank_delta(down, up, SCALE).norm()
    return weight.to(dtype), down.to(dtype), up.to(dtype)


def dense_norm(weight: Tensor, down: Tensor, up: Tensor, axis: NormAxis) -> Tensor:
    combined = weight.double() + SCALE * torch.einsum("or,r...->o...", up.double().flatten(1), down.double())
    return combined.transpose(0, algebra.channel_dimension(axis)).flatten(1).norm(dim=1)


@every_shape
@every_axis
@pytest.mark.parametrize("size", [0.0, 1e-4, 1e-2, 0.3, 3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 3e-7)])
def test_factored_norms_equal_dense_ones(
    shape: tuple[int, ...], axis: NormAxis, size: float, dtype: torch.dtype, tolerance: float
) -> None:
    weight, down, up = factors(shape, size, dtype)
    base_squared = algebra.squared_norm(weight, axis)
    squared = algebra.factored_squared_norms(base_squared[None], [weight], down[None], up[None], SCALE, axis)[0]
    assert squared.dtype == dtype
    assert error(squared.sqrt(), dense_norm(weight, down, up, axis)) < tolerance


@every_axis
@pytest.mark.parametrize("rank", [1, 16])
@pytest.mark.parametrize("layout", ["rows one after another", "columns one after another", "channels last"])
def test_norms_in_float32_keep_their_digits_at_the_sizes_of_real_layers(axis: NormAxis, rank: int, layout: str) -> None:
    generator = torch.Generator().manual_seed(rank)
    weight = torch.randn(323, 181, 3, 3, generator=generator)
    if layout == "columns one after another":
        weight = weight.flatten(1).T.contiguous().T
    elif layout == "channels last":
        weight = weight.to(memory_format=torch.channels_last)
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    up = torch.randn(323, rank, *[1] * (weight.dim() - 2), generator=generator) / rank
    base_squared = algebra.squared_norm(weight, axis)
    squared = algebra.factored_squared_norms(base_squared[None], [weight], down[None], up[None], SCALE, axis)[0]
    assert error(squared.sqrt(), dense_norm(weight, down, up, axis)) < 3e-7


@every_axis
def test_norms_of_a_half_precision_weight_are_those_of_its_values_in_float32(axis: NormAxis) -> None:
    weight, down, up = factors((40, 24), 0.1, torch.float32)
    weight = weight.bfloat16()
    base_squared = algebra.squared_norm(weight, axis)
    squared = algebra.factored_squared_norms(base_squared[None], [weight], down[None], up[None], SCALE, axis)[0]
    assert squared.dtype == torch.float32
    assert error(squared.sqrt(), dense_norm(weight, down, up, axis)) < 3e-7


@every_shape
@every_axis
def test_norms_of_several_layers_together_are_those_of_each_alone(shape: tuple[int, ...], axis: NormAxis) -> None:
    layers = [factors(shape, size, torch.float64) for size in (0.1, 0.5, 2.0)]
    weights, downs, ups = zip(*layers, strict=True)
    base_squared = torch.stack([algebra.squared_norm(weight, axis) for weight in weights])
    squared = algebra.factored_squared_norms(base_squared, weights, torch.stack(downs), torch.stack(ups), SCALE, axis)
    for together, layer in zip(squared, layers, strict=True):
        assert error(together.sqrt(), dense_norm(*layer, axis)) < 1e-14


@every_shape
@every_axis
def test_some_channels_may_be_taken_from_the_dense_weight(shape: tuple[int, ...], axis: NormAxis) -> None:
    weight, down, up = factors(shape, 0.5, torch.float64)
    channels = torch.tensor([5, 0, 3])
    squared = algebra.dense_squared_norm(weight, down, up, SCALE, axis, channels)
    assert error(squared.sqrt(), dense_norm(weight, down, up, axis)[channels]) < 1e-14


@every_shape
@every_axis
def test_the_gradient_of_the_norms_is_autograds_on_the_dense_weight(shape: tuple[int, ...], axis: NormAxis) -> None:
    weight, down, up = factors(shape, 0.5, torch.float64)
    down.requires_grad_()
    up.requires_grad_()
    norm = dense_norm(weight, down, up, axis)
    dn = torch.randn(norm.shape, dtype=torch.float64)
    expected = torch.autograd.grad(norm, [down, up], dn)
    with torch.no_grad():
        gradients = algebra.norm_gradient(dn / norm, weight, down, up, SCALE, axis)
    for ours, reference in zip(gradients, expected, strict=True):
        assert error(ours, reference) < 1e-12


@every_shape
@every_axis
def test_a_decomposed_weight_has_the_magnitude_for_norm_and_the_direction_of_v(
    shape: tuple[int, ...], axis: NormAxis
) -> None:
    weight, down, up = factors(shape, 0.5, torch.float64)
    combined = weight + algebra.low_rank_delta(down, up, SCALE)
    own = algebra.channel_dimension(axis)
    combined.transpose(0, own)[2] = 0
    magnitude = algebra.along(torch.randn(shape[own], dtype=torch.float64), weight, axis)
    decomposed = algebra.decomposed_weight(combined, magnitude, axis)
    channels, directions = decomposed.transpose(0, own).flatten(1), combined.transpose(0, own).flatten(1)
    alive = torch.arange(shape[own]) != 2
    assert (channels[2] == 0).all()
    assert error(channels.norm(dim=1)[alive], magnitude.flatten().abs()[alive]) < 1e-14
    cosines = torch.cosine_similarity(channels[alive], directions[alive])
    assert error(cosines, magnitude.flatten()[alive].sign()) < 1e-14


@every_shape
def test_the_low_rank_delta_is_that_of_the_neutral_form(shape: tuple[int, ...]) -> None:
    _, down, up = factors(shape, 0.5, torch.float64)
    layer = LayerWeights(down, up, alpha=SCALE * down.shape[0])
    assert error(algebra.low_rank_delta(down, up, SCALE), layer.delta()) < 1e-14
