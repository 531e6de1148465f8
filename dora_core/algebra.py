"""The algebra of DoRA on plain tensors: norms from the factors, their gradient, the dense weight that a layer means.

W0 is the frozen weight, A = `down` and B = `up` flattened to matrices, s the scale, D = s B A, V = W0 + D, m the
magnitude and n the norm of V: one number per output channel (output axis) or per input channel (input axis; over the
kernel too). Everything is computed in float32, or in float64 where a tensor is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from dora_core.spec import NormAxis

_aten = cast(Any, torch.ops).aten  # whose attributes PyTorch makes when they are asked for

CANCELLATION = 1e-3
"""Below this share of norm(W0)^2 a factored norm(V)^2 has lost too many digits: float32's 1e-7 has become 1e-4."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def low_rank_delta(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """D = s B A, in the shape of the weight."""
    return (scale * up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def squared_norm(weight: Tensor, axis: NormAxis) -> Tensor:
    """Per channel of the axis the sum of squares: (out,) or (in,)."""
    own = channel_dimension(axis)
    others = [dimension for dimension in range(weight.dim()) if dimension != own]
    return weight.to(accumulation_dtype(weight.dtype)).square().sum(others)


def factored_squared_norms(
    base_squared: Tensor, weights: Sequence[Tensor], down: Tensor, up: Tensor, scale: float, axis: NormAxis
) -> Tensor:
    """n^2 without V, from `base_squared`, the squared norms of W0; for several layers of one shape along dimension 0.

    rows:     n_i^2 = norm(W0_i)^2 + s B_i . (2 U + s B (A A^T))_i,   U = W0 A^T   (out, rank)
    columns:  n_j^2 = norm(W0_j)^2 + s A_j . (2 U + s (B^T B) A)_j,   U = B^T W0   (rank, in)

    A sum of squares that cancellation left below zero is zero.
    """
    dtype = accumulation_dtype(weights[0].dtype)
    a, b = down.flatten(2).to(dtype), up.flatten(2).to(dtype)
    with full_float32(), without_autocast(down):
        flat = (weight.flatten(1).to(dtype) for weight in weights)  # one at a time
        if axis == "output":
            u = torch.stack([_times_down(w, a[i]) for i, w in enumerate(flat)])
            change = torch.baddbmm(u, b, a @ a.mT, beta=2, alpha=scale).mul_(b).sum(2)
        else:
            u = torch.stack([_times_up(w, b[i]) for i, w in enumerate(flat)])
            columns = torch.baddbmm(u, b.mT @ b, a, beta=2, alpha=scale).mul_(a).sum(1)
            change = columns.reshape(*base_squared.shape, -1).sum(2)
    return torch.add(base_squared, change, alpha=scale).clamp_(min=0)


def _times_down(weight: Tensor, down: Tensor) -> Tensor:
    """W0 A^T: (out, rank)."""
    if not _is_for_onednn(weight):
        return weight @ down.T
    rows, columns = weight.shape
    image = weight.view(1, rows, 1, columns).permute(0, 3, 1, 2)  # a pixel is a row of W0, its channels come last
    convolved = torch.mkldnn_convolution(image, down[:, :, None, None], None, (0, 0), (1, 1), (1, 1), 1)
    return convolved.view(-1, rows).T


def _times_up(weight: Tensor, up: Tensor) -> Tensor:
    """B^T W0: (rank, in)."""
    if not _is_for_onednn(weight):
        return up.T @ weight
    size = (up.shape[1], weight.shape[1])
    return _aten.mkldnn_linear_backward_input(size, up.T.to_mkldnn(), weight).to_dense()


def _is_for_onednn(weight: Tensor) -> bool:
    """Whether oneDNN does the product: PyTorch itself gives matrices to MKL, half as fast on an AMD processor."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def dense_squared_norm(
    weight: Tensor, down: Tensor, up: Tensor, scale: float, axis: NormAxis, channels: Tensor
) -> Tensor:
    """n^2 of a few channels from V itself: for those where the factored one cancels."""
    if axis == "output":
        weight, up = weight[channels], up[channels]
    else:
        weight, down = weight[:, channels], down[:, channels]
    with full_float32(), without_autocast(down):
        return squared_norm(weight + low_rank_delta(down, up, scale), axis)


def norm_gradient(
    coefficient: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float, axis: NormAxis
) -> tuple[Tensor, Tensor]:
    """Gradient of `sum(dn * n)` in `down` and `up`, with the coefficient c = dn / n per channel.

    As n dn = V . dV, the dense gradient is c V (by rows or columns); its products with the factors need no V:
    rows:     dA = s (c B)^T V,            dB = s c (W0 A^T + s B (A A^T))
    columns:  dA = s (B^T W0 + s (B^T B) A) c,   dB = s V (A c)^T
    """
    w, a, b = _matrices(weight, down, up)
    with full_float32(), without_autocast(down):
        if axis == "output":
            scaled_b = coefficient[:, None] * b
            d_down = torch.addmm(scaled_b.T @ w, scaled_b.T @ b, a, alpha=scale)
            d_up = torch.addmm(w @ a.T, b, a @ a.T, alpha=scale) * coefficient[:, None]
        else:
            scaled_a = (a.reshape(a.shape[0], weight.shape[1], -1) * coefficient[:, None]).flatten(1)
            d_down = torch.addmm(b.T @ w, b.T @ b, a, alpha=scale).reshape(a.shape[0], weight.shape[1], -1)
            d_down = d_down * coefficient[:, None]
            d_up = torch.addmm(w @ scaled_a.T, b, a @ scaled_a.T, alpha=scale)
    return scale * d_down.reshape(down.shape), scale * d_up.reshape(up.shape)


def decomposed_weight(combined: Tensor, magnitude: Tensor, axis: NormAxis) -> Tensor:
    """W' = m V / norm(V); a channel of V that is zero stays zero. `magnitude` has all dimensions of the weight."""
    norm = direction_norm(squared_norm(combined, axis))
    return magnitude / along(norm, combined, axis) * combined


def direction_norm(squared: Tensor) -> Tensor:
    """The norm to divide by. A zero vector has no direction: its norm counts as infinite, gain and gradient as zero."""
    return squared.sqrt().masked_fill_(squared == 0, torch.inf)


def along(vector: Tensor, weight: Tensor, axis: NormAxis) -> Tensor:
    """One number per channel, shaped to be broadcast over the weight: (out, 1[, 1, 1]) or (1, in[, 1, 1])."""
    own = channel_dimension(axis)
    return vector.reshape([-1 if dimension == own else 1 for dimension in range(weight.dim())])


def channel_dimension(axis: NormAxis) -> int:
    return 0 if axis == "output" else 1


def _matrices(weight: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W0 (out, n), A (rank, n) and B (out, rank) in the precision of the norms."""
    dtype = accumulation_dtype(weight.dtype)
    return weight.flatten(1).to(dtype), down.flatten(1).to(dtype), up.flatten(1).to(dtype)


@contextmanager
def full_float32() -> Generator[None]:
    """No TF32 or bfloat16 inside products, those of oneDNN included, whatever the program allows elsewhere."""
    convolutions = cast(Any, torch.backends.mkldnn).conv  # untyped in PyTorch
    allowed, allowed_there = torch.get_float32_matmul_precision(), convolutions.fp32_precision
    torch.set_float32_matmul_precision("highest")
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)
        convolutions.fp32_precision = allowed_there


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    return torch.autocast(x.device.type, enabled=False) if is_autocast_on(x) else nullcontext()


def is_autocast_on(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)
