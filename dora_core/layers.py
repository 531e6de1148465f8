"""A LoRA, a DoRA and a full-size layer around one frozen Linear or Conv2d."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dora_core import algebra
from dora_core.functional import Operands, Plan, adapted, compute_dtype, exact_norm, with_difference
from dora_core.kernels import EAGER, compiled
from dora_core.norms import refresh_norms
from dora_core.operations import operation_of
from dora_core.spec import NormAxis, NormGradient
from dora_core.state import FullWeights, Layer, LayerWeights


class AdaptedLayer(nn.Module):
    """The original module, frozen, as `base`, and what is learned beside it; `strength` t means W0 + t (W' - W0).

    What is learned is float32 (float64 on a float64 base) and stays so when the model is cast.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.operation = operation_of(base)
        self.strength = 1.0
        self.is_enabled = True
        self.is_compiled = False  # the passes over activations, not the matrix products
        self.unmerged: Tensor | None = None  # W0 while the base holds W'
        self.has_own_weight = not is_parametrized(base, "weight")  # else, as quantised ones, made when it is read

    @property
    def weight(self) -> Tensor:
        """The base's, for code that asks an adapted module for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def original_weight(self) -> Tensor:
        """W0, also while the base holds W'."""
        return self.base.weight.detach() if self.unmerged is None else self.unmerged

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_enabled or self.strength == 0 or self.unmerged is not None:
            return self.base(x)
        return self._adapted(self.operation.pad(x))

    def merged_weight(self) -> Tensor:
        """The dense weight that `forward` stands for, W0 + strength (W' - W0), in float32 at least."""
        weight = self.original_weight.to(algebra.accumulation_dtype(self.base.weight.dtype))
        return torch.lerp(weight, self._adapted_weight(weight), self.strength)

    def merge(self) -> None:
        """Put `merged_weight`, rounded to the base's dtype, in the place of W0, which is kept aside.

        RuntimeError where the base makes its weight when it is read: there is no place.
        """
        if not self.has_own_weight:
            raise RuntimeError("the base's weight is quantised: merge into the model that it was made from.")
        merged = self.merged_weight().to(self.base.weight.dtype)
        self.unmerged, self.base.weight.data = self.base.weight.data, merged

    def unmerge(self) -> None:
        if self.unmerged is not None:
            self.base.weight.data, self.unmerged = self.unmerged, None

    def freeze_base(self) -> None:
        """Remember which parameters of the base ask for gradients, and let none of them."""
        self._asked = {name: parameter.requires_grad for name, parameter in self.base.named_parameters()}
        self.base.requires_grad_(False)

    def thaw_base(self) -> None:
        for name, parameter in self.base.named_parameters():
            parameter.requires_grad_(self._asked[name])

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What is learned, by part."""
        return dict(self.named_parameters(recurse=False))

    def fits(self, weights: Layer) -> bool:
        shapes = {part: tensor.shape for part, tensor in weights.tensors.items()}
        return shapes == {part: parameter.shape for part, parameter in self.own_parameters().items()}

    @torch.no_grad()
    def load(self, weights: Layer) -> None:
        """Take over what `fits`."""
        for part, parameter in self.own_parameters().items():
            parameter.copy_(weights.tensors[part])

    def weights(self) -> Layer:
        """What was learned, as copies on the CPU."""
        raise NotImplementedError

    def _adapted(self, x: Tensor) -> Tensor:
        """W' x + b at the present strength; `x` is padded."""
        raise NotImplementedError

    def _adapted_weight(self, weight: Tensor) -> Tensor:
        """W' from W0."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves everything, but casts the base alone: what is learned, and norms, never go below float32."""
        if recurse:
            self.base._apply(fn)  # pyright: ignore[reportUnknownMemberType]  (half typed in PyTorch)

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            dtype = algebra.accumulation_dtype(moved.dtype)
            return moved if moved.dtype == dtype else tensor.to(moved.device, dtype)

        super()._apply(move, recurse=False)  # pyright: ignore[reportUnknownMemberType]
        return self


class FullLayer(AdaptedLayer):
    """(W0 + D) x + b with D = `difference`, of the size of W0: the weight itself is trained.

    Starts as exactly the base: D is zero. W0 + D is never kept.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d) -> None:
        super().__init__(base)
        dtype = algebra.accumulation_dtype(base.weight.dtype)
        self.difference = nn.Parameter(torch.zeros_like(base.weight, dtype=dtype))

    def weights(self) -> FullWeights:
        return FullWeights(_copy(self.difference))

    def extra_repr(self) -> str:
        return "full"

    def _adapted(self, x: Tensor) -> Tensor:
        difference = self.difference if self.strength == 1 else self.strength * self.difference
        return with_difference(x, self.base.weight, self.base.bias, difference, self.operation, compute_dtype(x))

    def _adapted_weight(self, weight: Tensor) -> Tensor:
        return weight + self.difference.detach()


class LoraLayer(AdaptedLayer):
    """W0 x + b + s B A x, with s = `scale` and the original module, frozen, as `base`.

    Starts as exactly the base: `up` is zero. Dropout acts on the input of the low-rank path alone.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.scale = scale
        self.dropout = dropout
        weight = base.weight
        dtype = algebra.accumulation_dtype(weight.dtype)
        self.down = nn.Parameter(weight.new_zeros(rank, *weight.shape[1:], dtype=dtype))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank, *[1] * (weight.dim() - 2), dtype=dtype))

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def load(self, weights: Layer) -> None:
        """Take over what `fits`, with its scale."""
        super().load(weights)
        assert isinstance(weights, LayerWeights)  # as it fits
        self.scale = weights.scale

    def weights(self) -> LayerWeights:
        return LayerWeights(_copy(self.down), _copy(self.up), self.scale * self.rank)

    def extra_repr(self) -> str:
        return f"lora, rank={self.rank}, scale={self.scale:g}"

    def _adapted(self, x: Tensor) -> Tensor:
        base, scale, keep = self.base, self.scale, None
        if self.training and self.dropout > 0:
            keep = torch.rand_like(x, dtype=torch.float32) >= self.dropout
            scale /= 1 - self.dropout
        operands, axis = self._adaptation(Operands(x, base.weight, base.bias, self.down, self.up, keep=keep))
        kernels = compiled() if self.is_compiled else EAGER
        return adapted(operands, Plan(self.operation, axis, scale, compute_dtype(x), kernels))

    def _adaptation(self, operands: Operands) -> tuple[Operands, NormAxis | None]:
        """The operands at the present strength, and the axis of their norms."""
        return operands if self.strength == 1 else operands._replace(up=self.strength * self.up), None

    def _adapted_weight(self, weight: Tensor) -> Tensor:
        return weight + algebra.low_rank_delta(self.down.detach(), self.up.detach(), self.scale)


class DoraLayer(LoraLayer):
    """m V / n x + b with V = W0 + s B A and n its norms along `axis`; starts as exactly the base with m = n.

    The norm counts as a constant in backward (DoRA paper, section 4.3) unless `gradient` is "exact". It is computed
    from the factors when they have changed: once per optimizer step, however often `forward` runs in between. A write
    that PyTorch does not count (through `.data`, or by a foreign kernel) needs a call of `refresh_norm`.
    """

    axis: NormAxis
    norm: Tensor
    base_squared: Tensor

    def __init__(
        self,
        base: nn.Linear | nn.Conv2d,
        rank: int,
        scale: float,
        axis: NormAxis,
        dropout: float = 0.0,
        gradient: NormGradient = "detached",
    ) -> None:
        super().__init__(base, rank, scale, dropout)
        self.axis = axis
        self.gradient: NormGradient = gradient
        weight = base.weight.detach()
        base_squared = algebra.squared_norm(weight, axis)
        self.register_buffer("base_squared", base_squared, persistent=False)
        self.register_buffer("norm", algebra.direction_norm(base_squared), persistent=False)
        self.magnitude = nn.Parameter(algebra.along(base_squared.sqrt(), weight, axis))
        self.weak: Tensor | None = None  # output axis: channels whose gain is too small to divide by
        self._versions: tuple[int, ...] | None = None

    def refresh_norm(self) -> None:
        refresh_norms([self])

    def note_versions(self) -> None:
        """Remember which values the norms are being computed from, and bring that of W0 alone up to date."""
        versions = self._current_versions()
        if self._versions is None or self._versions[0] != versions[0]:
            self.base_squared.copy_(algebra.squared_norm(self.original_weight, self.axis))
        self._versions = versions

    def weights(self) -> LayerWeights:
        return replace(super().weights(), magnitude=_copy(self.magnitude))

    def extra_repr(self) -> str:
        return f"dora, rank={self.rank}, scale={self.scale:g}, axis={self.axis}, gradient={self.gradient}"

    def _adaptation(self, operands: Operands) -> tuple[Operands, NormAxis | None]:
        if not torch.compiler.is_compiling() and self._versions != self._current_versions():
            self.refresh_norm()
        norm, magnitude = self.norm, self.magnitude.flatten()
        if self.gradient == "exact" and torch.is_grad_enabled():
            norm = exact_norm(norm, self.base.weight, self.down, self.up, self.scale, self.axis)
        if self.strength == 1:
            return operands._replace(magnitude=magnitude, norm=norm, weak=self.weak), self.axis
        return _blended(operands, magnitude / norm, self.strength, self.axis), self.axis

    def _adapted_weight(self, weight: Tensor) -> Tensor:
        return algebra.decomposed_weight(super()._adapted_weight(weight), self.magnitude.detach(), self.axis)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._versions = None
        super()._apply(fn, recurse)
        return self

    def _current_versions(self) -> tuple[int, ...]:
        if self.has_own_weight:
            return tuple(t._version for t in (self.base.weight, self.down, self.up, self.magnitude))
        return (0, *(t._version for t in (self.down, self.up, self.magnitude)))


def _blended(operands: Operands, gain: Tensor, strength: float, axis: NormAxis) -> Operands:
    """W0 + t (W' - W0) as a DoRA layer of its own: gain 1 + t (g - 1), and the update times t g over that gain.

    A gain of 0, which a strength between 0 and 1 never makes of a positive one, could not carry an update: it is 1e-6.
    """
    blended = 1 + strength * (gain - 1)
    blended = blended.masked_fill(blended == 0, 1e-6)
    share = strength * gain / blended
    down, up = operands.down, operands.up
    if axis == "output":
        up = up * algebra.along(share, up, axis)
    else:
        down = down * algebra.along(share, down, axis)
    return operands._replace(down=down, up=up, magnitude=blended, norm=torch.ones_like(blended))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
