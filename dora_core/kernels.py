"""The passes over activations that an adapter adds to matrix products, each a formula that a compiler can fuse.

Eager, each is several passes, in half precision about ten; `compiled` is the same formulas through torch.compile.
Vectors over channels come shaped to be broadcast over activations; they are float32 where those are half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, cast

import torch
from torch import Tensor

from dora_core.rounding import round_unbiased

_ELEMENTS_AT_ONCE = 2**18  # whose temporaries stay in a CPU's cache


@dataclass(frozen=True)
class Kernels:
    """`scaled`, `combined` and `weighed` of this module, or what computes the same."""

    scaled: Callable[[Tensor, Tensor], Tensor]
    combined: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
    weighed: Callable[[Tensor, Tensor, Tensor | None, Tensor, tuple[int, ...], Tensor], Tensor]


def scaled(x: Tensor, gain: Tensor) -> Tensor:
    """gain x, in the dtype of x."""
    return round_unbiased(x * gain, x)


def combined(base: Tensor, low: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    """base + low, `amplified`, with one rounding to the half precision of base; `base` where nothing changes it."""
    value = base.float().add_(low)
    return round_unbiased(value if gain is None else amplified(value, gain, bias, out=value), base)


def amplified(y: Tensor, gain: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """gain (y - bias) + bias into `out`, which may be y itself; where the gain is 1 that is y to the bit."""
    return torch.mul(y, gain, out=out) if bias is None else torch.lerp(bias, y, gain, out=out)


def weighed(
    a: Tensor, b: Tensor, offset: Tensor | None, gain: Tensor, dimensions: tuple[int, ...], out: Tensor
) -> Tensor:
    """The sum of a (b - offset) over `dimensions`, and gain a into `out`, which may be a itself."""
    at_once = _block_size(a)
    if at_once < a.shape[0]:
        blocks = zip(*(torch.split(tensor, at_once) for tensor in (a, b, out)), strict=True)
        return reduce(torch.add, (weighed(x, y, offset, gain, dimensions, scaled_x) for x, y, scaled_x in blocks))
    total = (a.to(gain.dtype) * (b if offset is None else b - offset)).sum(dimensions)
    torch.mul(a, gain, out=out)
    return total


def _block_size(a: Tensor) -> int:
    """Along dimension 0: on a CPU what fits its cache, elsewhere and in a compiled kernel everything."""
    if torch.compiler.is_compiling() or a.device.type != "cpu":
        return max(a.shape[0], 1)
    return max(_ELEMENTS_AT_ONCE * a.shape[0] // max(a.numel(), 1), 1)


EAGER = Kernels(scaled, combined, weighed)


@cache
def compiled() -> Kernels:
    """Compiled when they are first called, for sizes of any kind."""
    compile_kernel = cast(Any, torch).compile  # whose own types are incomplete
    return Kernels(*(compile_kernel(kernel, dynamic=True) for kernel in (scaled, combined, weighed)))
