"""LoRA and DoRA as one differentiable operation that keeps for backward little more than LoRA keeps.

With the norm detached (DoRA paper, section 4.3) DoRA is a LoRA layer with one gain per channel, g = m / n:

    output axis   y = g (W0 x + s B A x) + b          = (W0 x + b) g + (1 - g) b + s g B A x
    input axis    y = W0 (g x) + s B A (g x) + b

and LoRA is the case g = 1. Neither W' nor V is formed. Gradients, with P the gradient at the low-rank bottleneck:

    output axis   P = (g s B)^T dy    dx = W0^T (g dy) + A^T P      dA = P x^T      dB = g s dy (A x)^T
                  dm = sum dy (y - b) / m
    input axis    P = (s B)^T dy      u = W0^T dy + A^T P           dx = g u        dA = (P x^T) g
                  dm = sum u x / n    dB = s dy (A g x)^T

So the input axis keeps x and A x, as LoRA does, and the output axis its own output besides, which its consumer often keeps
anyway (a consumer that changes it in place is an error in backward). The exact gradient follows from dn = -g dm.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dora_core.algebra import along, norm_gradient
from dora_core.operations import Operation
from dora_core.rounding import round_unbiased
from dora_core.spec import NormAxis


@dataclass(frozen=True)
class Plan:
    """What of a call is not a tensor."""

    operation: Operation
    axis: NormAxis | None  # None: LoRA
    scale: float
    dtype: torch.dtype  # of the computation and the output: autocast's, or the input's


@dataclass(frozen=True)
class Factors:
    """What of a call is learned, with the norm that the magnitude is divided by."""

    down: Tensor  # (rank, in) or (rank, in, kh, kw)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    magnitude: Tensor | None = None  # with all dimensions of the weight
    norm: Tensor | None = None  # (out,) or (in,)
    weak: Tensor | None = None  # output axis: indices of channels whose gain is too small to divide by


def adapted(
    x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors, plan: Plan, keep: Tensor | None = None
) -> Tensor:
    """y of the module's formulas. `keep`: a mask on the input of the low-rank path (dropout), its scaling in the scale.

    Half precision: products run in `plan.dtype`, whatever combines them in float32, with one rounding that keeps changes
    below the resolution of the format on average (`round_unbiased`); magnitude, norm and gain stay in float32. That holds
    on both axes, for half-precision inputs and for float32 inputs under autocast.
    """
    f = factors
    with _without_autocast(x):
        return _Adapted.apply(x, weight, bias, f.down, f.up, f.magnitude, f.norm, keep, f.weak, plan)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What the base operation computes in: autocast's dtype for what autocast casts, else that of `x`."""
    if x.dtype != torch.float64 and _is_autocast_on(x):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class _Adapted(Function):
    @staticmethod
    def forward(  # PyTorch hands over a context without a usable type
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        magnitude: Tensor | None,
        norm: Tensor | None,
        keep: Tensor | None,
        weak: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        operation, dtype = plan.operation, plan.dtype
        gain = _gain(magnitude, norm)
        inner = _scaled_input(x, gain, plan)
        base = operation.apply(inner, weight.to(dtype), None if bias is None else bias.to(dtype))
        low = operation.apply(_masked(inner, keep), down.to(dtype))
        y = _combined(base, low, _effective_up(up, gain, plan), gain, bias, plan)
        ctx.plan = plan
        ctx.save_for_backward(
            x, weight, bias, down, up, magnitude, norm, keep, weak, low, y if plan.axis == "output" else None
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with _without_autocast(dy):
            dx, d_down, d_up, d_magnitude, d_norm = _backward(ctx, dy)
        return dx, None, None, d_down, d_up, d_magnitude, d_norm, None, None, None


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, down, up, magnitude, norm, keep, weak, low, y = ctx.saved_tensors
    plan: Plan = ctx.plan
    operation, dtype = plan.operation, plan.dtype
    gain = _gain(magnitude, norm)
    effective_up = _effective_up(up, gain, plan)
    inner = x.to(dtype)
    bottleneck = operation.pointwise.input_grad(dy, effective_up, low.shape)
    d_up = operation.pointwise.weight_grad(dy, low, up.shape).to(up.dtype).mul_(_up_scale(up, gain, plan))
    d_down = operation.weight_grad(bottleneck, _masked(inner, keep), down.shape).to(down.dtype)
    dx = d_magnitude = d_norm = None
    if plan.axis == "output":
        d_magnitude = _sum_of_products(operation, y if bias is None else y - operation.spread(bias.to(dtype)), dy)
        d_magnitude /= magnitude.flatten()
        if weak is not None:
            d_magnitude[weak] = _weak_gradient(ctx, dy, gain)
        if ctx.needs_input_grad[0]:
            dy = torch.mul(dy, operation.spread(gain), out=torch.empty_like(dy))
    if ctx.needs_input_grad[0] or plan.axis == "input":
        dx = operation.input_grad(dy, weight.to(dtype), x.shape)
        if keep is None:
            dx = operation.add_input_grad(dx, bottleneck, down.to(dtype))
        else:
            dx += _masked(operation.input_grad(bottleneck, down.to(dtype), x.shape), keep)
    if plan.axis == "input":
        d_magnitude = _sum_of_products(operation, dx, inner) / norm
        d_down.mul_(along(gain, down, plan.axis))
        dx.mul_(operation.spread(gain))
    if d_magnitude is not None:
        d_norm = -gain * d_magnitude if ctx.needs_input_grad[6] else None
        d_magnitude = d_magnitude.reshape(magnitude.shape)
    return None if dx is None else dx.to(x.dtype), d_down, d_up, d_magnitude, d_norm


class FactoredNormGradient(Function):
    """The identity on a norm that was computed before, with the exact gradient of the factors behind it."""

    @staticmethod
    def forward(
        ctx: Any, norm: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float, axis: NormAxis
    ) -> Tensor:
        ctx.scale, ctx.axis = scale, axis
        ctx.save_for_backward(norm, weight, down, up)
        return norm.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dn: Tensor) -> tuple[Tensor | None, ...]:
        norm, weight, down, up = ctx.saved_tensors
        with _without_autocast(dn):
            d_down, d_up = norm_gradient(dn / norm, weight, down, up, ctx.scale, ctx.axis)
        return None, None, d_down, d_up, None, None


def _gain(magnitude: Tensor | None, norm: Tensor | None) -> Tensor | None:
    return None if magnitude is None or norm is None else magnitude.flatten() / norm


def _scaled_input(x: Tensor, gain: Tensor | None, plan: Plan) -> Tensor:
    """The input of both paths in the dtype of the computation, times the gain on the input axis."""
    x = x.to(plan.dtype)
    if gain is None or plan.axis != "input":
        return x
    return round_unbiased(x * plan.operation.spread(gain), x)


def _combined(base: Tensor, low: Tensor, up: Tensor, gain: Tensor | None, bias: Tensor | None, plan: Plan) -> Tensor:
    """base + up low, base times its gain on the output axis but for the bias; `base` itself where g = 1 and up = 0."""
    operation = plan.operation
    is_half = base.dtype in (torch.bfloat16, torch.float16)
    total = base
    if gain is not None and plan.axis == "output":
        shift = None if bias is None else operation.spread((1 - gain) * bias)
        target = None if is_half else base
        if shift is None:
            total = torch.mul(base, operation.spread(gain), out=target)
        else:
            total = torch.addcmul(shift, base, operation.spread(gain), out=target)
    if not is_half:
        return operation.pointwise.add_apply(total, low, up)
    return round_unbiased(operation.pointwise.apply(low, up) + total.float(), base)


def _effective_up(up: Tensor, gain: Tensor | None, plan: Plan) -> Tensor:
    return (up * _up_scale(up, gain, plan)).to(plan.dtype)


def _up_scale(up: Tensor, gain: Tensor | None, plan: Plan) -> Tensor | float:
    if gain is None or plan.axis != "output":
        return plan.scale
    return along(gain * plan.scale, up, plan.axis)


def _sum_of_products(operation: Operation, a: Tensor, b: Tensor) -> Tensor:
    return operation.sum(a * b)


def _weak_gradient(ctx: Any, dy: Tensor, gain: Tensor) -> Tensor:
    """dm where m is (nearly) 0 and y - b holds nothing of it: sum dy z / n with z = V x computed again."""
    x, weight, _, _, up, _, norm, _, weak, low, _ = ctx.saved_tensors
    plan: Plan = ctx.plan
    z = plan.operation.apply(x.to(plan.dtype), weight[weak].to(plan.dtype))
    z = plan.operation.pointwise.add_apply(z, low, (up[weak] * plan.scale).to(plan.dtype))
    chosen = dy.index_select(plan.operation.channel, weak)
    return _sum_of_products(plan.operation, z, chosen) / norm[weak]


def _masked(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x * keep


def _is_autocast_on(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    return torch.autocast(x.device.type, enabled=False) if _is_autocast_on(x) else nullcontext()
