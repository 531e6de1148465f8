"""Rounding to half precision that keeps small changes: the effect of an adapter survives on average, not by luck."""

from __future__ import annotations

import torch
from torch import Tensor

# Bits of a float32 that the half format drops, and the golden ratio as a 16-bit odd integer: multiples of it spread
# neighbouring values evenly over [0, 2^16) (Knuth, TAOCP 3, section 6.4).
_DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}
_GOLDEN = -25033  # 40503 as a signed 16-bit integer


def round_unbiased(value: Tensor, source: Tensor) -> Tensor:
    """`value` (float32), a slightly changed `source`, in the dtype of `source`.

    Rounding to nearest gives back `source` wherever the change is below half a unit in the last place, so that a gain
    of 1.001 on a bfloat16 tensor has no effect at all. Here the threshold between rounding down and up is not one half
    but a fixed function of the bits of `source` that is evenly spread over [0, 1): over the values of a tensor the
    change survives on average. Nothing is random, the same numbers always round the same way, and a value that did not
    change comes back bit for bit. The error is below one unit in the last place.
    """
    dropped = _DROPPED_BITS.get(source.dtype)
    if dropped is None:
        return value
    threshold = source.view(torch.int16).mul(_GOLDEN).bitwise_and_(0x7FFF)  # 15 evenly spread bits
    bits = value.view(torch.int32)
    if dropped == 16:
        bits = bits.add(threshold, alpha=2)
    else:
        bits = bits.add(threshold.bitwise_right_shift_(15 - dropped))
    rounded = bits.bitwise_and_(-1 << dropped).view(torch.float32)
    return torch.where(value.isnan(), value, rounded).to(source.dtype)  # adding to the bits of a NaN may make it 0
