"""Randomness that can be taken up anywhere: every draw comes from a generator named by its seed, step and purpose."""

from __future__ import annotations

import hashlib
from random import Random

import torch


def seed_of(*names: int | str) -> int:
    """63 bits that depend on every name and its place."""
    digest = hashlib.blake2b(":".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*names: int | str) -> torch.Generator:
    """On the CPU whatever the device, so that every device sees the same noise."""
    return torch.Generator().manual_seed(seed_of(*names))


def chance(*names: int | str) -> Random:
    """For choices outside of tensors."""
    return Random(seed_of(*names))
