"""LoRA and DoRA as one differentiable operation that keeps for backward little more than LoRA keeps.

With the norm detached (DoRA paper, section 4.3) DoRA is a LoRA layer with one gain per channel, g = m / n:

    output axis   y = g (W0 x + s B A x) + b
    input axis    y = W0 (g x) + s B A (g x) + b

and LoRA is the case g = 1. Neither W' nor V is formed. Gradients, with p the gradient at the low-rank bottleneck:

    output axis   those of LoRA for g dy in the place of dy,          dm = sum dy (y - b) / m
    LoRA          p = (s B)^T dy      dx = W0^T dy + A^T p            dA = p x^T        dB = s dy (A x)^T
    input axis    p = (s B)^T dy      u = W0^T dy + A^T p, dx = g u   dA = g (p x^T)    dB = s dy (A g x)^T
                  dm = sum u x / n

So the input axis keeps x and A g x, as LoRA does; the output axis its own output besides, which its consumer often
keeps anyway (a consumer that changes it in place is an error in backward). The exact gradient follows from dn = -g dm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dora_core.algebra import along, is_autocast_on, norm_gradient, without_autocast
from dora_core.kernels import EAGER, Kernels, amplified
from dora_core.operations import Operation
from dora_core.rounding import round_unbiased
from dora_core.spec import NormAxis


@dataclass(frozen=True)
class Plan:
    """What of a call is not a tensor."""

    operation: Operation
    axis: NormAxis | None  # None: LoRA
    scale: float
    dtype: torch.dtype  # of the products and the output: autocast's, or the input's
    kernels: Kernels = EAGER


class Operands(NamedTuple):
    """What of a call is a tensor. LoRA has neither magnitude nor norm."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    down: Tensor  # (rank, in) or (rank, in, kh, kw)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    magnitude: Any = None  # (out,) or (in,); a Tensor or None, told apart by `gain`
    norm: Any = None  # likewise
    keep: Tensor | None = None  # mask on the input of the low-rank path (dropout); what makes up for it is in the scale
    weak: Tensor | None = None  # output axis: indices of channels whose gain is too small to divide by

    @property
    def gain(self) -> Tensor | None:
        return None if self.norm is None else self.magnitude / self.norm


def adapted(operands: Operands, plan: Plan) -> Tensor:
    """y of the module's formulas.

    In half precision the matrix products run in `plan.dtype`; what combines them runs in float32 and is rounded once,
    so that changes below the resolution of the format survive on average (`round_unbiased`): gains and low-rank
    updates alike, on both axes, for half-precision inputs and under autocast. Magnitude, norm and gain stay float32.
    """
    with without_autocast(operands.x):
        return _apply(_Adapted, *operands, plan)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What the base operation computes in: autocast's dtype for what autocast casts, else that of `x`."""
    if x.dtype != torch.float64 and is_autocast_on(x):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class _Adapted(Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # Any: how PyTorch types what it hands over
        operands, plan = Operands(*arguments[:-1]), cast(Plan, arguments[-1])
        y, low = _forward(operands, plan)
        ctx.plan = plan
        ctx.save_for_backward(*operands, low, y if plan.axis == "output" else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator makes ctx positional, as used)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        *tensors, low, y = ctx.saved_tensors
        operands = Operands(*tensors)
        with without_autocast(low):
            gradients = _backward(operands, low, y, grad_outputs[0], ctx.plan, ctx.needs_input_grad[0])
        d_norm = -operands.magnitude / operands.norm * gradients.magnitude if ctx.needs_input_grad[6] else None
        return *gradients, d_norm, None, None, None


def _forward(operands: Operands, plan: Plan) -> tuple[Tensor, Tensor]:
    """y and the low-rank activation."""
    operation, dtype, gain = plan.operation, plan.dtype, operands.gain
    inner = operands.x.to(dtype)
    if gain is not None and plan.axis == "input":
        inner = plan.kernels.scaled(inner, operation.spread(gain))
    bias = None if operands.bias is None else operands.bias.to(dtype)
    base = operation.apply(inner, operands.weight.to(dtype), bias)
    low = operation.apply(_masked(inner, operands.keep), operands.down.to(dtype))
    return _combined(base, low, operands, gain, plan), low


def _combined(base: Tensor, low: Tensor, operands: Operands, gain: Tensor | None, plan: Plan) -> Tensor:
    """base + s B low, on the output axis with its gain on all but the bias; `base` to the bit where g = 1 and B = 0.

    The base comes with its own bias: taken out and added again it would differ in its last bits.
    """
    operation, up = plan.operation, _scaled_up(operands, plan)
    factor = bias = None
    if gain is not None and plan.axis == "output":
        factor = operation.spread(gain)
        bias = None if operands.bias is None else operation.spread(operands.bias.to(gain.dtype))
    if base.dtype in (torch.bfloat16, torch.float16):
        return plan.kernels.combined(base, operation.pointwise.apply(low, up), factor, bias)
    y = operation.pointwise.add_apply(base, low, up)
    return y if factor is None else amplified(y, factor, bias, out=y)


class _Gradients(NamedTuple):
    """In the order of `Operands`."""

    x: Tensor | None
    weight: None
    bias: None
    down: Tensor
    up: Tensor
    magnitude: Tensor | None


def _backward(operands: Operands, low: Tensor, y: Tensor | None, dy: Tensor, plan: Plan, needs_dx: bool) -> _Gradients:
    operation, gain, down, up = plan.operation, operands.gain, operands.down, operands.up
    inner, dy = operands.x.to(plan.dtype), operation.packed(dy)
    dx = d_magnitude = None
    if gain is not None and y is not None:
        d_magnitude, dy = _output_magnitude_gradient(operands, gain, low, y, dy, plan)
    bottleneck = operation.pointwise.input_grad(dy, _scaled_up(operands, plan), low.shape)
    d_up = operation.pointwise.weight_grad(dy, low, up.shape).to(up.dtype).mul_(plan.scale)
    d_down = operation.weight_grad(bottleneck, _masked(inner, operands.keep), down.shape).to(down.dtype)
    if needs_dx or plan.axis == "input":
        dx = _input_gradient(operands, bottleneck, dy, plan)
    if gain is not None and dx is not None and plan.axis == "input":
        d_magnitude = operation.weighed(plan.kernels, dx, inner, None, gain, out=dx) / operands.norm
        d_down.mul_(along(gain, down, "input"))
    dx = None if dx is None else dx.to(operands.x.dtype)
    return _Gradients(dx, None, None, d_down, d_up, d_magnitude)


def _input_gradient(operands: Operands, bottleneck: Tensor, dy: Tensor, plan: Plan) -> Tensor:
    """W0^T dy + A^T p."""
    operation, down, shape = plan.operation, operands.down.to(plan.dtype), operands.x.shape
    dx = operation.input_grad(dy, operands.weight.to(plan.dtype), shape)
    if operands.keep is None:
        return operation.add_input_grad(dx, bottleneck, down)
    return dx.add_(_masked(operation.input_grad(bottleneck, down, shape), operands.keep))


def _output_magnitude_gradient(
    operands: Operands, gain: Tensor, low: Tensor, y: Tensor, dy: Tensor, plan: Plan
) -> tuple[Tensor, Tensor]:
    """dm = sum dy (y - b) / m, and g dy."""
    operation, scaled_dy = plan.operation, torch.empty_like(dy)
    bias = None if operands.bias is None else operation.spread(operands.bias.to(gain.dtype))
    d_magnitude = operation.weighed(plan.kernels, dy, y, bias, gain, out=scaled_dy) / operands.magnitude
    if operands.weak is not None:
        d_magnitude[operands.weak] = _weak_gradient(operands, operands.weak, low, dy, plan)
    return d_magnitude, scaled_dy


def _weak_gradient(operands: Operands, weak: Tensor, low: Tensor, dy: Tensor, plan: Plan) -> Tensor:
    """dm where m is (nearly) 0 and y - b holds nothing of it: sum dy z / n, with z = V x computed again."""
    operation, norm = plan.operation, operands.norm
    z = operation.apply(operands.x.to(plan.dtype), operands.weight[weak].to(plan.dtype))
    z = operation.pointwise.add_apply(z, low, (operands.up[weak] * plan.scale).to(plan.dtype))
    products = (dy.index_select(operation.channel, weak) * z).movedim(operation.channel, 0)
    return products.flatten(1).sum(1, dtype=norm.dtype) / norm[weak]


class _FactoredNorm(Function):
    """The identity on a norm that was computed before, with the exact gradient of the factors behind it."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # norm, weight, down, up, scale, axis
        *tensors, ctx.scale, ctx.axis = arguments
        ctx.save_for_backward(*tensors)
        return tensors[0].clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator makes ctx positional, as used)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        norm, weight, down, up = ctx.saved_tensors
        d_down, d_up = norm_gradient(grad_outputs[0] / norm, weight, down, up, ctx.scale, ctx.axis)
        return None, None, d_down, d_up, None, None


class _WithDifference(Function):
    """Keeps its input alone: W0 + D is computed again for backward, one pass over the weight."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # x, weight, bias, difference, operation, dtype
        x, weight, bias, difference, operation, dtype = arguments
        ctx.save_for_backward(x, weight, difference)
        ctx.operation, ctx.dtype = operation, dtype
        return operation.apply(x.to(dtype), _sum(weight, difference, dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator makes ctx positional, as used)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        x, weight, difference = ctx.saved_tensors
        operation, dx = ctx.operation, None
        with without_autocast(x):
            dy = operation.packed(grad_outputs[0])
            if ctx.needs_input_grad[0]:
                dx = operation.input_grad(dy, _sum(weight, difference, ctx.dtype), x.shape).to(x.dtype)
            d_difference = operation.weight_grad(dy, x.to(ctx.dtype), difference.shape).to(difference.dtype)
        return dx, None, None, d_difference, None, None


def with_difference(
    x: Tensor, weight: Tensor, bias: Tensor | None, difference: Tensor, operation: Operation, dtype: torch.dtype
) -> Tensor:
    """(W0 + D) x + b, the product in `dtype`; in half precision the sum is rounded such that a small D survives."""
    with without_autocast(x):
        return _apply(_WithDifference, x, weight, bias, difference, operation, dtype)


def _sum(weight: Tensor, difference: Tensor, dtype: torch.dtype) -> Tensor:
    """W0 + D; where D is zero W0 to the bit."""
    base = weight.to(dtype)
    return round_unbiased(base + difference, base)


def exact_norm(norm: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float, axis: NormAxis) -> Tensor:
    """`norm`, computed before from these factors, with its gradient in them."""
    return _apply(_FactoredNorm, norm, weight, down, up, scale, axis)


def _apply(function: Any, *arguments: Any) -> Tensor:
    """`Function.apply`, which PyTorch leaves untyped."""
    return cast(Tensor, function.apply(*arguments))


def _scaled_up(operands: Operands, plan: Plan) -> Tensor:
    return (operands.up * plan.scale).to(plan.dtype)


def _masked(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x * keep
