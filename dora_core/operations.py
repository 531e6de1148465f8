"""How a weight is applied: the one difference between a Linear and a Conv2d, as two small values with the same methods.

A low-rank update is the same operation with `down` for a weight, followed by the `pointwise` one with `up`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as _grad

from dora_core.kernels import Kernels


class Operation(Protocol):
    """`weight_grad` and `input_grad` are adjoints of `apply`; the `add_` forms add to their first argument in place."""

    @property
    def pointwise(self) -> Operation: ...

    @property
    def channel(self) -> int:
        """The dimension of the channels in inputs and outputs."""
        ...

    def pad(self, x: Tensor) -> Tensor: ...
    def packed(self, dy: Tensor) -> Tensor:
        """In a memory layout that every use of it can share."""
        ...

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...
    def input_grad(self, dy: Tensor, weight: Tensor, shape: torch.Size) -> Tensor: ...
    def weight_grad(self, dy: Tensor, x: Tensor, shape: torch.Size) -> Tensor: ...
    def add_apply(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor: ...
    def add_input_grad(self, dx: Tensor, dy: Tensor, weight: Tensor) -> Tensor: ...
    def spread(self, vector: Tensor) -> Tensor:
        """A vector over channels, shaped to be broadcast over inputs or outputs."""
        ...

    def weighed(
        self, kernels: Kernels, a: Tensor, b: Tensor, offset: Tensor | None, gain: Tensor, out: Tensor
    ) -> Tensor:
        """`Kernels.weighed` per channel."""
        ...


grad: Any = _grad  # whose annotations say int where it takes tuples


@dataclass(frozen=True)
class LinearOperation:
    """y = x W^T + b on (..., in)."""

    channel = -1

    @property
    def pointwise(self) -> LinearOperation:
        return self

    def pad(self, x: Tensor) -> Tensor:
        return x

    def packed(self, dy: Tensor) -> Tensor:
        return dy.contiguous()

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_grad(self, dy: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return dy @ weight

    def weight_grad(self, dy: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        return _rows(dy).T @ _rows(x)

    def add_apply(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        y.view(-1, y.shape[-1]).addmm_(_rows(x), weight.T)
        return y

    def add_input_grad(self, dx: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
        dx.view(-1, dx.shape[-1]).addmm_(_rows(dy), weight)
        return dx

    def spread(self, vector: Tensor) -> Tensor:
        return vector

    def weighed(
        self, kernels: Kernels, a: Tensor, b: Tensor, offset: Tensor | None, gain: Tensor, out: Tensor
    ) -> Tensor:
        return kernels.weighed(_rows(a), _rows(b), offset, gain, (0,), out.view(-1, out.shape[-1]))


@dataclass(frozen=True)
class ConvOperation:
    """y = conv(x, W) + b on (batch, in, height, width); padding that conv2d cannot do itself happens in `pad`."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    padded_by: tuple[int, ...] = ()  # as F.pad counts: left, right, top, bottom
    padding_mode: str = "constant"

    channel = -3

    @property
    def pointwise(self) -> ConvOperation:
        return ConvOperation()

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padded_by, self.padding_mode) if self.padded_by else x

    def packed(self, dy: Tensor) -> Tensor:
        return dy

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def input_grad(self, dy: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return grad.conv2d_input(shape, weight, dy, self.stride, self.padding, self.dilation)

    def weight_grad(self, dy: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        return grad.conv2d_weight(x, shape, dy, self.stride, self.padding, self.dilation)

    def add_apply(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return y.add_(self.apply(x, weight))

    def add_input_grad(self, dx: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
        return dx.add_(self.input_grad(dy, weight, dx.shape))

    def spread(self, vector: Tensor) -> Tensor:
        return vector[:, None, None]

    def weighed(
        self, kernels: Kernels, a: Tensor, b: Tensor, offset: Tensor | None, gain: Tensor, out: Tensor
    ) -> Tensor:
        return kernels.weighed(a, b, offset, self.spread(gain), (0, 2, 3), out)


def operation_of(module: nn.Module) -> Operation:
    """The operation of an `nn.Linear` or `nn.Conv2d`; ValueError for what cannot be adapted, with the reason."""
    if isinstance(module, nn.Linear):
        return LinearOperation()
    if isinstance(module, nn.Conv2d):
        return _conv_operation(module)
    raise ValueError(f"a {type(module).__name__} is neither nn.Linear nor nn.Conv2d")


def _conv_operation(module: nn.Conv2d) -> ConvOperation:
    if module.groups != 1:
        raise ValueError(f"a Conv2d with groups={module.groups}: only groups=1 has norms per input channel")
    sides = _padding_sides(module)
    if module.padding_mode == "zeros" and sides[0::2] == sides[1::2]:
        return ConvOperation(module.stride, (sides[2], sides[0]), module.dilation)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return ConvOperation(module.stride, (0, 0), module.dilation, sides, mode)


def _padding_sides(module: nn.Conv2d) -> tuple[int, ...]:
    """Left, right, top, bottom; "same" puts the odd one right and at the bottom, as nn.Conv2d does."""
    if isinstance(module.padding, str):
        total = [d * (k - 1) if module.padding == "same" else 0 for d, k in _spans(module)]
        vertical, horizontal = total
        return (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    vertical, horizontal = module.padding
    return (horizontal, horizontal, vertical, vertical)


def _spans(module: nn.Conv2d) -> Sequence[tuple[int, int]]:
    return list(zip(module.dilation, module.kernel_size, strict=True))


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
