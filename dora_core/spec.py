"""What to adapt and how: plain frozen values, free of torch, so that a page or a plan can use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lora", "dora"]
NormAxis = Literal["input", "output"]
NormGradient = Literal["detached", "exact"]


@dataclass(frozen=True)
class TargetRule:
    """Rank and alpha of the layers that `pattern` matches; the last matching rule wins."""

    pattern: str
    rank: int
    alpha: float | None = None  # None: alpha = rank, that is a scale of 1


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter: its kind, size and the layers it sits on.

    `include`, `exclude` and rule patterns are shell-style globs over the module paths of the base model
    (``*.attn1.to_q``). A layer is a target when it is an ``nn.Linear`` or ``nn.Conv2d``, some include pattern matches it
    and no exclude pattern does.

    The scale of the low-rank update is ``alpha / rank``, or ``alpha / sqrt(rank)`` when `rank_stabilised`
    (rsLoRA, arXiv 2312.03732, eq. 9).
    """

    kind: Kind = "dora"
    norm_axis: NormAxis = "input"
    norm_gradient: NormGradient = "detached"
    rank: int = 16
    alpha: float | None = None  # None: alpha = rank
    conv_rank: int | None = None  # for kernels larger than 1x1; None: as `rank`
    conv_alpha: float | None = None  # None: as `alpha`, or `conv_rank` where only that is given
    rank_stabilised: bool = False
    dropout: float = 0.0  # on the input of the low-rank path
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    rules: tuple[TargetRule, ...] = ()
