"""Where and in which precision a run computes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from trainer.config_sections import Precision

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """`dtype`: of the frozen models; what is learned is float32 everywhere."""

    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Of the device itself, under whatever number this process sees it: cpu, mps, or a card's own id."""
        if self.device.type != "cuda":
            return self.device.type
        return str(torch.cuda.get_device_properties(self.device).uuid)

    @property
    def precision(self) -> Precision:
        """What 'auto' has come to."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def make_scaler(self) -> torch.amp.GradScaler:
        """float16 gradients underflow without one; 2^12 overflows nowhere at the start and doubles by itself."""
        return torch.amp.GradScaler(self.device.type, init_scale=2.0**12, enabled=self.dtype == torch.float16)

    @property
    def peak_mib(self) -> float | None:
        """Highest use of the card's memory since the start; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.device) / 2**20


def choose_compute(precision: Precision) -> Compute:
    """The card if there is one; "auto" is bf16 where it has that, fp16 on older ones, fp32 elsewhere."""
    if torch.cuda.is_available():
        best = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return Compute(torch.device("cuda"), best if precision == "auto" else DTYPES[precision])
    name = "mps" if torch.backends.mps.is_available() else "cpu"
    return Compute(torch.device(name), torch.float32 if precision == "auto" else DTYPES[precision])
