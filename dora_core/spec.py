"""What to adapt and how: plain frozen values, free of torch, so that a page or a plan can use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dora_core.patterns import matches_any

Kind = Literal["lora", "dora", "full"]
NormAxis = Literal["input", "output"]
Form = NormAxis | Literal["full"] | None  # what an adapter is to a file: DoRA by its axis, full differences, LoRA
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

    Kind "full" learns a difference of the full size of every weight, to which nothing about ranks and norms applies.

    `include`, `exclude` and rule patterns are shell-style globs over the module paths of the base model
    (``*.attn1.to_q``). A layer is a target when it is an ``nn.Linear`` or ``nn.Conv2d``, some include pattern matches
    it and no exclude pattern does.

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

    def takes(self, name: str) -> bool:
        """Whether a Linear or Conv2d of this module path is a target."""
        return matches_any(name, self.include) and not matches_any(name, self.exclude)

    def rank_and_alpha(self, name: str, has_kernel: bool) -> tuple[int, float]:
        """Of the layer of that name; `has_kernel`: a convolution with more than 1x1."""
        for rule in reversed(self.rules):
            if matches_any(name, [rule.pattern]):
                return rule.rank, rule.rank if rule.alpha is None else rule.alpha
        if has_kernel and self.conv_rank is not None:
            alpha = self.alpha if self.conv_alpha is None else self.conv_alpha
            return self.conv_rank, self.conv_rank if alpha is None else alpha
        alpha = self.conv_alpha if has_kernel and self.conv_alpha is not None else self.alpha
        return self.rank, self.rank if alpha is None else alpha

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(Kind))
        _check_choice("norm_axis", self.norm_axis, get_args(NormAxis))
        _check_choice("norm_gradient", self.norm_gradient, get_args(NormGradient))
        _check_size("", self.rank, self.alpha)
        _check_size("conv_", self.conv_rank, self.conv_alpha)
        for rule in self.rules:
            _check_size(f"rule {rule.pattern!r}: ", rule.rank, rule.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it is a share of the inputs, at least 0 and below 1.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}.")


def _check_size(prefix: str, rank: int | None, alpha: float | None) -> None:
    if rank is not None and rank < 1:
        raise ValueError(f"{prefix}rank is {rank}: it is a number of directions, 1 at least.")
    if alpha == 0:
        raise ValueError(f"{prefix}alpha is {alpha}: nothing would be learned. Leave it out for a scale of 1.")
