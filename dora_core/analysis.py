"""How far an adapter moves a model: change of magnitude and of direction, as the DoRA paper measures them.

The paper (arXiv 2402.09353, section 3) splits a weight into vectors, W_n = m_n V_n / norm(V_n), and compares them with
the base model's: the change of magnitude is the mean of abs(m_n - norm(W0_n)), the change of direction the mean of
1 - cos(W_n, W0_n). Over layers it finds the two anti-correlated for full fine-tuning and DoRA, correlated for LoRA.

From an adapter's factors none of this needs a dense update: with U = W0 A^T, <W0, D> = s * sum(U * B) row by row, and
norm(D)^2 = s^2 * sum((B A A^T) * B); columns likewise. Everything else follows from those two and norm(W0)^2.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dora_core.algebra import channel_dimension
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, FullWeights, Layer, LayerWeights


@dataclass(frozen=True)
class Decomposition:
    """W = magnitude * direction; `direction` consists of vectors of length 1, or 0 where the weight's are zero."""

    magnitude: Tensor  # (out, 1[, 1, 1]) on the output axis, (1, in[, 1, 1]) on the input axis
    direction: Tensor  # as the weight


def decompose(weight: Tensor, axis: NormAxis) -> Decomposition:
    """Split a weight into the lengths and the directions of its columns (input axis) or rows (output axis)."""
    magnitude = weight.square().sum(_other_dimensions(weight, axis), keepdim=True).sqrt()
    return Decomposition(magnitude, _ratio(weight, magnitude))


def recompose(parts: Decomposition) -> Tensor:
    return parts.magnitude * parts.direction


@dataclass(frozen=True)
class LayerChange:
    """What happened to one weight. Norms are Frobenius norms of the whole weight."""

    name: str
    magnitude_change: float  # the paper's delta M: mean over vectors of abs(norm(W_n) - norm(W0_n))
    direction_change: float  # the paper's delta D: mean over vectors of 1 - cos(W_n, W0_n), 0..2
    base_norm: float
    adapted_norm: float
    update_norm: float  # of W' - W0

    @property
    def drift(self) -> float:
        """1 - cos(W', W0), both taken as one long vector each."""
        return _turn(self.base_norm, self.adapted_norm, self.update_norm)

    @property
    def relative_update(self) -> float:
        return self.update_norm / self.base_norm if self.base_norm else math.inf


@dataclass(frozen=True)
class Adaptation:
    """What happened to a model, layer by layer and together."""

    axis: NormAxis  # along which the vectors lie
    layers: tuple[LayerChange, ...]

    @property
    def magnitude_change(self) -> float:
        return statistics.fmean(layer.magnitude_change for layer in self.layers)

    @property
    def direction_change(self) -> float:
        return statistics.fmean(layer.direction_change for layer in self.layers)

    @property
    def correlation(self) -> float | None:
        return change_correlation(self.layers)

    @property
    def update_norm(self) -> float:
        return math.hypot(*(layer.update_norm for layer in self.layers))

    @property
    def relative_update(self) -> float:
        return self.update_norm / math.hypot(*(layer.base_norm for layer in self.layers))

    @property
    def drift(self) -> float:
        """1 - cos between all adapted weights and all base weights, taken as one long vector each."""
        base = math.hypot(*(layer.base_norm for layer in self.layers))
        return _turn(base, math.hypot(*(layer.adapted_norm for layer in self.layers)), self.update_norm)

    def table(self) -> str:
        """One line per layer, largest relative update first, and one for all of them."""
        width = max(len("all layers"), *(len(layer.name) for layer in self.layers))
        head = f"{'layer':{width}}  update/base  magnitude   direction   drift"
        rows = sorted(self.layers, key=lambda layer: -layer.relative_update)
        lines = [_table_line(layer.name, width, layer) for layer in rows]
        return "\n".join([head, *lines, _table_line("all layers", width, self)])


def change_correlation(layers: Iterable[LayerChange]) -> float | None:
    """Pearson's correlation of the changes of direction and magnitude; None for fewer than two different layers.

    The paper takes layers at several stages of a training together; so can the caller.
    """
    points = [(layer.direction_change, layer.magnitude_change) for layer in layers]
    try:
        return statistics.correlation(*zip(*points, strict=True)) if len(points) > 1 else None
    except statistics.StatisticsError:  # one of the two does not vary
        return None


def analyze_adaptation(
    base: Mapping[str, Tensor], adapted: AdapterState | Mapping[str, Tensor], axis: NormAxis | None = None
) -> Adaptation:
    """Compare the base weights with an adapter on them, or with adapted weights of the same names.

    `axis` says which vectors to compare: columns (input) or rows (output). None: the adapter's own axis, and the input
    axis for LoRA and dense weights. Weights of fewer than two dimensions are passed over. One layer at a time is in
    float64, on the device of its base weight. ValueError where the base lacks a layer or has it in another shape.
    """
    if isinstance(adapted, AdapterState):
        own_axis = axis or adapted.norm_axis or "input"
        if adapted.norm_axis not in (None, own_axis):
            raise ValueError(f"the adapter's norm axis is {adapted.norm_axis}: its changes cannot be read along {axis}")
        _check_names(base, adapted.layers)
        changes = [_adapter_change(name, base[name], layer, own_axis) for name, layer in adapted.layers.items()]
    else:
        own_axis = axis or "input"
        weights = {name: weight for name, weight in adapted.items() if weight.dim() > 1}
        _check_names(base, weights)
        changes = [_dense_change(name, base[name], weight, own_axis) for name, weight in weights.items()]
    return Adaptation(own_axis, tuple(changes))


def _other_dimensions(weight: Tensor, axis: NormAxis) -> list[int]:
    return [dimension for dimension in range(weight.dim()) if dimension != channel_dimension(axis)]


@dataclass(frozen=True)
class _Moments:
    """Per vector: norm(W0)^2, <W0, D> and norm(D)^2, in float64."""

    base_squared: Tensor
    product: Tensor
    update_squared: Tensor


def _dense_change(name: str, base: Tensor, adapted: Tensor, axis: NormAxis) -> LayerChange:
    _check_shape(name, base, tuple(adapted.shape))
    weight = base.double()
    update = adapted.to(weight) - weight
    others = _other_dimensions(weight, axis)
    moments = _Moments(weight.square().sum(others), (weight * update).sum(others), update.square().sum(others))
    return _layer_change(name, moments, None)


def _adapter_change(name: str, base: Tensor, layer: Layer, axis: NormAxis) -> LayerChange:
    _check_shape(name, base, layer.weight_shape)
    if isinstance(layer, FullWeights):
        return _dense_change(name, base, base.double() + layer.delta().to(base.device), axis)
    return _low_rank_change(name, base, layer, axis)


def _low_rank_change(name: str, base: Tensor, layer: LayerWeights, axis: NormAxis) -> LayerChange:
    moments = _row_moments(base, layer) if axis == "output" else _column_moments(base, layer)
    magnitude = None if layer.magnitude is None else layer.magnitude.flatten().to(moments.product)
    return _layer_change(name, moments, magnitude)


def _row_moments(base: Tensor, layer: LayerWeights) -> _Moments:
    weight, up, down = _matrices(base, layer)
    return _Moments(weight.square().sum(1), ((weight @ down.T) * up).sum(1), ((up @ (down @ down.T)) * up).sum(1))


def _column_moments(base: Tensor, layer: LayerWeights) -> _Moments:
    """Columns of the flattened weight are (input, kernel position); a vector is all positions of one input."""
    weight, up, down = _matrices(base, layer)
    per_column = (weight.square().sum(0), ((up.T @ weight) * down).sum(0), (((up.T @ up) @ down) * down).sum(0))
    return _Moments(*(column.reshape(base.shape[1], -1).sum(1) for column in per_column))


def _matrices(base: Tensor, layer: LayerWeights) -> tuple[Tensor, Tensor, Tensor]:
    """W0 (out, n), s * B (out, rank) and A (rank, n), in float64."""
    weight = base.flatten(1).double()
    return weight, layer.scale * layer.up.flatten(1).to(weight), layer.down.flatten(1).to(weight)


def _layer_change(name: str, moments: _Moments, magnitude: Tensor | None) -> LayerChange:
    """All numbers from the moments of V = W0 + D and the magnitude (None: W' = V)."""
    base = moments.base_squared.sqrt()
    squared = (moments.base_squared + 2 * moments.product + moments.update_squared).clamp_min(0)
    combined = squared.sqrt()
    # norm(V) - norm(W0) without taking the difference of two large numbers; likewise 1 - cos below
    growth = _ratio(2 * moments.product + moments.update_squared, combined + base)
    turn = _ratio(moments.update_squared - growth.square(), 2 * base * combined).clamp(0, 2)
    if magnitude is None:
        adapted, change, update_squared = combined, growth.abs(), moments.update_squared
    else:
        adapted, change = magnitude.abs(), (magnitude.abs() - base).abs()
        turn = torch.where(magnitude < 0, 2 - turn, turn)
        gain = _ratio(magnitude, combined)
        update_squared = (
            (gain - 1).square() * moments.base_squared
            + 2 * gain * (gain - 1) * moments.product
            + gain.square() * moments.update_squared
        )
    return LayerChange(
        name=name,
        magnitude_change=float(change.mean()),
        direction_change=float(turn.mean()),
        base_norm=_root_of_sum(base.square()),
        adapted_norm=_root_of_sum(adapted.square()),
        update_norm=_root_of_sum(update_squared),
    )


def _root_of_sum(squares: Tensor) -> float:
    return math.sqrt(max(0.0, float(squares.sum())))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is: a vector of length 0 has no direction that could have turned."""
    return torch.where(denominator > 0, numerator / denominator.where(denominator > 0, 1), 0)


def _turn(base: float, adapted: float, update: float) -> float:
    """1 - cos(a, b) = (norm(a - b)^2 - (norm(a) - norm(b))^2) / (2 norm(a) norm(b)), precise for small angles too."""
    return max(0.0, update**2 - (adapted - base) ** 2) / (2 * base * adapted) if base and adapted else 0.0


def _check_names(base: Mapping[str, Tensor], adapted: Mapping[str, object]) -> None:
    missing = sorted(name for name in adapted if name not in base)
    if missing:
        raise ValueError(f"the base model lacks {len(missing)} of {len(adapted)} adapted layers, first {missing[0]}")


def _check_shape(name: str, base: Tensor, adapted: tuple[int, ...]) -> None:
    if tuple(base.shape) != adapted:
        raise ValueError(
            f"layer {name} is {list(base.shape)} in the base model and {list(adapted)} in what was adapted"
        )


def _table_line(name: str, width: int, change: LayerChange | Adaptation) -> str:
    return (
        f"{name:{width}}  {change.relative_update:11.4%}  {change.magnitude_change:9.3e}   "
        f"{change.direction_change:9.3e}   {change.drift:9.3e}"
    )
