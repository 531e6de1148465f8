"""The optimizers that can be chosen: where each comes from, which rates it is meant for, how much it keeps. No torch.

A row is all that there is to say of an optimizer; `trainer.optim` builds it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import prod
from typing import Literal

from dora_core.header import Shape

OptimizerKind = Literal["adamw", "adamw8bit", "lion", "adafactor", "prodigy", "adamw-schedule-free"]
Betas = tuple[float, float]
FLOAT32 = 4
SMALLEST_8BIT, BLOCK = 4096, 256  # bitsandbytes': values from which a tensor is kept in 8 bits, and values per scale


@dataclass(frozen=True)
class OptimizerRow:
    """`path`: module and class; `rates`: outside of them one cannot be meant; `betas`: None where it has none.

    `state_bytes`: of a parameter of a shape, scalars not counted; `group_state`: what it keeps in its groups besides.
    """

    path: str
    learning_rate: float  # where none is given
    rates: tuple[float, float]
    betas: Betas | None
    state_bytes: Callable[[Shape], int]
    options: Mapping[str, object] = field(default_factory=dict)
    group_state: tuple[str, ...] = ()
    package: str = ""  # that has to be installed for it
    is_fused_on_cuda: bool = False
    finds_its_rate: bool = False  # one for all parameters; the learning rate is a factor of it
    is_schedule_free: bool = False  # what it optimises and what is to be used differ: it averages


def copies(count: int) -> Callable[[Shape], int]:
    """As many float32 values as the parameter has, `count` times."""
    return lambda shape: count * FLOAT32 * prod(shape)


def rows_and_columns(shape: Shape) -> int:
    """Adafactor's: a mean along each of the last two dimensions."""
    return FLOAT32 * (prod(shape) // shape[-1] + prod(shape) // shape[-2])


def two_moments_in_8_bits(shape: Shape) -> int:
    """A byte for each value and a float32 scale for each block; small tensors stay in float32."""
    values = prod(shape)
    return 2 * values + 2 * FLOAT32 * -(-values // BLOCK) if values >= SMALLEST_8BIT else 2 * FLOAT32 * values


OPTIMIZERS: Mapping[OptimizerKind, OptimizerRow] = {
    "adamw": OptimizerRow(
        "torch.optim:AdamW", 1e-4, (0, 0.1), (0.9, 0.999), copies(2), is_fused_on_cuda=True
    ),  # arXiv 1711.05101
    "adamw8bit": OptimizerRow(
        "bitsandbytes.optim:AdamW8bit",  # arXiv 2110.02861
        *(1e-4, (0, 0.1), (0.9, 0.999), two_moments_in_8_bits),
        package="bitsandbytes",
    ),
    "lion": OptimizerRow(
        "pytorch_optimizer:Lion",  # arXiv 2302.06675; every step is of the size of the rate: a fifth of AdamW's
        *(2e-5, (0, 0.02), (0.9, 0.99), copies(1)),
    ),
    "adafactor": OptimizerRow(
        "pytorch_optimizer:AdaFactor",  # arXiv 1804.04235
        *(1e-4, (0, 0.1), None, rows_and_columns),
        # With the rate that it is given. Steps in proportion to the parameter would keep `up`, which starts at zero,
        # there for a thousand steps.
        options={"betas": (None, 0.999), "scale_parameter": False, "relative_step": False},
        group_state=("step",),
    ),
    "prodigy": OptimizerRow(
        "pytorch_optimizer:Prodigy",  # arXiv 2306.06101
        *(1.0, (0.05, 10), (0.9, 0.999), copies(4)),
        options={"bias_correction": True, "safeguard_warmup": True},  # as its authors advise for diffusion models
        group_state=("step", "d", "d_max", "d_hat", "d_numerator", "d_de_nom"),
        finds_its_rate=True,
    ),
    "adamw-schedule-free": OptimizerRow(
        "pytorch_optimizer:ScheduleFreeAdamW",  # arXiv 2405.15682
        *(2e-4, (0, 0.1), (0.9, 0.999), copies(2)),
        group_state=("step", "weight_sum", "lr_max"),
        is_schedule_free=True,
    ),
}


def what_is_missing(kind: OptimizerKind, has_card: bool) -> tuple[str, str] | None:
    """What keeps an optimizer from working here, and what to do; None: nothing."""
    package = OPTIMIZERS[kind].package
    if not package or (has_card and find_spec(package)):
        return None
    sentence = f"optim.kind is {kind}, which needs " + (f"the package {package}" if has_card else "an NVIDIA card")
    return sentence, "set it to adamw" + (", or install it: pip install 'dora-studio[bnb]'" if has_card else "")
