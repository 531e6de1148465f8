"""What each program computes from an adapter file: one small function per formula, one table row per way to run it.

A formula takes the base weight W0 (out, in[, kh, kw]), the low-rank update D = alpha / rank * up @ down in the same
shape, the file's `dora_scale` m exactly as stored (None: plain LoRA) and the strength s, and returns the weight that
the program then runs with. Each follows the program's own order of operations and precision, its mistakes included:
the point is to know what a file will look like there, not what it should look like.

Versions read: ComfyUI 0.3.30 to 0.12.1, Forge of June 2025, A1111 1.10, SD.Next of July 2026, InvokeAI 6.14, LyCORIS
3.2 to 4.1.3, peft 0.21, diffusers 0.42, sd-scripts 0.10.1, stable-diffusion.cpp of August 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dora_core.layouts import Layout
from dora_core.rendering import (
    A1111,
    COMFYUI,
    DIFFUSERS,
    FORGE,
    INVOKEAI,
    LYCORIS,
    PEFT,
    SDCPP,
    SDNEXT,
    SDSCRIPTS,
)

Formula = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]


@dataclass(frozen=True)
class Consumer:
    """One way to run one formula.

    `weight_dtype` is what the base weight is held in while it is patched, `product_dtype` what up @ down is multiplied
    in, `result_dtype` what the patched weight is kept in. `interpolates` says whether a DoRA at strength s is
    W0 + s (W' - W0); where it is not, only strength 1 means the same there as elsewhere. `tolerance` is the error,
    relative to the update, up to which we call the result the same.
    """

    key: str
    program: str
    path: str
    formula: Formula
    layouts: frozenset[Layout]
    weight_dtype: torch.dtype = torch.float32
    product_dtype: torch.dtype = torch.float32
    result_dtype: torch.dtype = torch.float32
    interpolates: bool = True
    tolerance: float = 1e-3

    @property
    def is_half(self) -> bool:
        return self.result_dtype != torch.float32


def rendered_weight(
    consumer: Consumer, weight: Tensor, update: Tensor, magnitude: Tensor | None, strength: float
) -> Tensor:
    """The weight `consumer` runs with; `update` is D in `product_dtype`, or a stored full difference."""
    return consumer.formula(weight.to(consumer.weight_dtype), update, magnitude, strength).to(consumer.result_dtype)


def comfyui(weight: Tensor, delta: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """ComfyUI, and Forge and reForge which carry copies of it.

    The axis is read from the first dimension of m. Input axis: V * m / (norm(V) + eps). Output axis:
    V * m / (norm(W0) + eps), the norm of the base weight where DoRA asks for that of V (ComfyUI pull request 15458 is
    the open fix). eps is that of the dtype the weight is held in: 1e-7, 1e-3 (float16) or 8e-3 (bfloat16).
    """
    if magnitude is None:
        return weight + (strength * delta).to(weight.dtype)
    combined = weight + delta.to(weight.dtype)
    is_output = magnitude.shape[0] == weight.shape[0]
    norm = _norm_per(0, weight) if is_output else _norm_per(1, combined)
    gain = magnitude.to(delta.dtype) / (norm + torch.finfo(weight.dtype).eps)
    return _interpolated(weight, combined * gain.to(weight.dtype), strength)


def input_axis_only(weight: Tensor, delta: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """A1111 and InvokeAI: V * m / norm(V) over the input axis, whatever the shape of m, without an eps.

    An output-axis m of shape (out, 1) meets norms of shape (1, in), and broadcasting makes of it the matrix m_i / n_j.
    """
    if magnitude is None:
        return weight + (strength * delta).to(weight.dtype)
    combined = weight.to(delta.dtype) + delta
    changed = combined * (magnitude.to(delta.dtype) / _norm_per(1, combined))
    return weight + (strength * (changed - weight.to(delta.dtype))).to(weight.dtype)


def axis_by_shape(weight: Tensor, delta: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """SD.Next: V * m / norm(V) over the axis that the shape of m names; a flat m of a square weight: input axis."""
    if magnitude is None:
        return weight + (strength * delta).to(weight.dtype)
    combined = weight.to(delta.dtype) + delta
    out, inputs = weight.shape[:2]
    if magnitude.dim() == 1:
        is_output = magnitude.shape[0] == out and out != inputs
    else:
        is_output = magnitude.shape[0] == out and magnitude.numel() == out
    if is_output:
        magnitude = magnitude.reshape(-1, *[1] * (weight.dim() - 1))
    changed = combined * (magnitude.to(delta.dtype) / _norm_per(0 if is_output else 1, combined))
    return weight + (strength * (changed - weight.to(delta.dtype))).to(weight.dtype)


def lycoris(weight: Tensor, delta: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """LyCORIS' module, built with the axis of the file: V * (s * (g - 1) + 1) with g = m / (norm(V) + eps).

    The strength reaches the gain only: at 0 the low-rank update is still there.
    """
    if magnitude is None:
        return weight + strength * delta
    combined = (weight + delta).to(magnitude.dtype)
    axis = 0 if magnitude.shape[0] == weight.shape[0] and magnitude.numel() == weight.shape[0] else 1
    gain = magnitude / (_norm_per(axis, combined) + torch.finfo(magnitude.dtype).eps)
    return combined * (strength * (gain - 1) + 1)


def peft(weight: Tensor, delta: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """PEFT, and diffusers for files in PEFT's layout: m * V_s / norm(V_s) over the output axis, V_s = W0 + s * D.

    The strength reaches the low-rank update only: at 0 the rows of the base weight still have the length m. The
    magnitude counts as one number per output row, also where it came from an input axis of the same size.
    """
    combined = weight + strength * delta
    if magnitude is None:
        return combined
    return combined * (magnitude.reshape(-1, *[1] * (weight.dim() - 1)) / _norm_per(0, combined))


def plain(weight: Tensor, delta: Tensor, magnitude: Tensor | None, strength: float) -> Tensor:
    """Readers that know no DoRA: W0 + s * D, and m is passed over."""
    del magnitude
    return weight + strength * delta


def _norm_per(dim: int, weight: Tensor) -> Tensor:
    """One Euclidean norm per index of `dim`, over everything else, with all dimensions kept."""
    others = [d for d in range(weight.dim()) if d != dim]
    # torch annotates nothing in torch.linalg
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _interpolated(weight: Tensor, changed: Tensor, strength: float) -> Tensor:
    return changed if strength == 1.0 else weight + strength * (changed - weight)


_KOHYA: frozenset[Layout] = frozenset({"kohya", "kohya-compensated"})  # which look the same to a program
_KOHYA_AND_DIFF: frozenset[Layout] = frozenset({"kohya", "kohya-compensated", "diff"})
_F16, _BF16 = torch.float16, torch.bfloat16

CONSUMERS: tuple[Consumer, ...] = (
    Consumer("comfyui", COMFYUI, "float32", comfyui, _KOHYA_AND_DIFF),
    Consumer(
        "comfyui-fp16",
        COMFYUI,
        "GPU, float16 weights",
        comfyui,
        _KOHYA_AND_DIFF,
        weight_dtype=_F16,
        result_dtype=_F16,
        tolerance=5e-2,
    ),
    Consumer(
        "comfyui-bf16",
        COMFYUI,
        "low VRAM, bfloat16 model",
        comfyui,
        _KOHYA_AND_DIFF,
        weight_dtype=_BF16,
        product_dtype=_BF16,
        result_dtype=_BF16,
        tolerance=5e-2,
    ),
    Consumer("forge", FORGE, "float32", comfyui, _KOHYA_AND_DIFF),
    Consumer(
        "forge-fp16",
        FORGE,
        "float16 model",
        comfyui,
        _KOHYA_AND_DIFF,
        result_dtype=_F16,
        tolerance=5e-2,
    ),
    Consumer("a1111", A1111, "float32", input_axis_only, _KOHYA_AND_DIFF),
    Consumer(
        "a1111-fp16",
        A1111,
        "GPU, all in float16",
        input_axis_only,
        _KOHYA_AND_DIFF,
        weight_dtype=_F16,
        product_dtype=_F16,
        result_dtype=_F16,
        tolerance=5e-2,
    ),
    Consumer("sdnext", SDNEXT, "float32", axis_by_shape, _KOHYA_AND_DIFF),
    Consumer(
        "sdnext-bf16",
        SDNEXT,
        "bfloat16 model",
        axis_by_shape,
        _KOHYA_AND_DIFF,
        weight_dtype=_BF16,
        product_dtype=_BF16,
        result_dtype=_BF16,
        tolerance=5e-2,
    ),
    Consumer("invokeai", INVOKEAI, "float32", input_axis_only, _KOHYA_AND_DIFF),
    Consumer("lycoris", LYCORIS, "built with the file's axis", lycoris, _KOHYA, interpolates=False),
    Consumer("diffusers", PEFT, "PEFT layout", peft, frozenset({"peft"}), interpolates=False),
    Consumer("diffusers-kohya", DIFFUSERS, "drops dora_scale", plain, _KOHYA),
    Consumer("sdcpp", SDCPP, "no dora_scale", plain, _KOHYA_AND_DIFF),
    Consumer("plain", SDSCRIPTS, "no dora_scale", plain, _KOHYA),
)
BY_KEY = {consumer.key: consumer for consumer in CONSUMERS}
