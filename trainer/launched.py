"""Whether a launcher of several processes (`accelerate launch`, `torchrun`) has started this one. Free of torch."""

from __future__ import annotations

import os


def processes_launched() -> int:
    """How many processes work on the same run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_launched() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
