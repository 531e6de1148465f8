"""A frozen base model in fewer bits: its weights lie packed, and every use of one unpacks it.

Whoever reads `module.weight` gets what the packed numbers stand for, so that layers, norms and gradients are exactly
those of a dense model with these weights. Autograd keeps what it was given, so only where blocks are checkpointed is no
more than one of them unpacked at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from trainer.config_sections import BaseBits
from trainer.failures import ExplainedError

IN_BLOCKS = re.compile(r"^(down_blocks|mid_block|up_blocks)\.")  # what is outside of them is small, and sensitive


class Int8Rows(nn.Module):
    """W_ij = s_i q_ij with q in -127..127 and s_i = max_j |W_ij| / 127 in float32: one scale per output channel."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, packed: Tensor, scale: Tensor) -> Tensor:
        return (packed * scale).to(self.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = weight.float()
        scale = rows.abs().amax(dim=tuple(range(1, rows.dim())), keepdim=True) / 127
        scale = scale.masked_fill(scale == 0, 1)
        return (rows / scale).round().to(torch.int8), scale


def quantise(unet: nn.Module, bits: BaseBits) -> None:
    """Pack the weights of the UNet's blocks, where they are; raises ExplainedError where a library is missing."""
    if bits == "as-is":
        return
    pack = _pack_int8 if bits == "int8" else _nf4_packer()
    for name, module in list(unet.named_modules()):
        if isinstance(module, nn.Linear | nn.Conv2d) and IN_BLOCKS.match(name):
            pack(module)


def _pack_int8(module: nn.Linear | nn.Conv2d) -> None:
    register_parametrization(module, "weight", Int8Rows(module.weight.dtype), unsafe=True)


def _nf4_packer() -> Callable[[nn.Module], None]:
    """NF4 of QLoRA (arXiv 2305.14314, section 3), a scale for each 64 weights."""
    try:
        parametrize = import_module("bitsandbytes.nn.parametrize")
    except ImportError as error:
        raise ExplainedError(
            "model.bits is nf4, and bitsandbytes, which packs weights so, is not installed.",
            'Install it with `pip install "dora-studio[bnb]"`, or set model.bits to int8.',
        ) from error
    return lambda module: parametrize.replace_parameter_4bit(module, "weight")
