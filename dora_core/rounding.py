"""Rounding to half precision that keeps small changes: the effect of an adapter survives on average, not by luck."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -25033  # 40503 as signed 16 bits, 2^16 over the golden ratio: its multiples spread neighbouring values evenly

# How many bits of a float32 the format has no room for, and how 15 bits become that many: shifted right, times a unit.
_LAYOUTS = {torch.bfloat16: (16, 0, 2), torch.float16: (13, 2, 1)}


def round_unbiased(value: Tensor, source: Tensor) -> Tensor:
    """`value` (float32), a slightly changed `source`, in the dtype of `source`.

    Rounding to nearest gives back `source` wherever the change is below half a unit in the last place, so that a gain
    of 1.001 on a bfloat16 tensor has no effect at all. Here the threshold between rounding down and up is not one half
    but a fixed function of the bits of `source` that is evenly spread over [0, 1): over the values of a tensor the
    change survives on average. Nothing is random, the same numbers always round the same way, and a value that did not
    change comes back bit for bit. The error is below one unit in the last place.
    """
    if source.dtype not in _LAYOUTS:
        return value
    dropped, shift, unit = _LAYOUTS[source.dtype]
    threshold = source.view(torch.int16).mul(_GOLDEN).bitwise_and_(0x7FFF).bitwise_right_shift_(shift)
    bits = value.view(torch.int32).add(threshold, alpha=unit).bitwise_and_(-1 << dropped)
    return torch.where(value.isnan(), value, bits.view(torch.float32)).to(source.dtype)  # bits of a NaN may overflow
