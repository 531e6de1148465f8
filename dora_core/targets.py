"""Which layers of a model a spec names, with what rank: the plan that can be read before anything changes."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod, sqrt
from typing import Any, cast

from torch import nn

from dora_core.operations import operation_of
from dora_core.spec import AdapterSpec

BYTES_PER_PARAMETER = 4  # the factors and the magnitude are float32


@dataclass(frozen=True)
class Target:
    """One layer to adapt."""

    name: str  # its module path in the base model
    module: nn.Linear | nn.Conv2d
    rank: int  # 0: no factors, but a difference of full size
    scale: float  # of the low-rank update, from the rank that was asked for even where `rank` is clamped
    magnitudes: int = 0  # of DoRA
    notice: str | None = None

    @property
    def parameters(self) -> int:
        out_size, *rest = self.module.weight.shape
        return self.rank * (out_size + prod(rest)) + self.magnitudes if self.rank else out_size * prod(rest)


@dataclass(frozen=True)
class Plan:
    """All targets of a spec in a model; `print(plan)` shows them."""

    targets: tuple[Target, ...]

    @property
    def parameters(self) -> int:
        return sum(target.parameters for target in self.targets)

    @property
    def mib(self) -> float:
        """Of the parameters themselves, in float32."""
        return self.parameters * BYTES_PER_PARAMETER / 2**20

    def __str__(self) -> str:
        width = max(len(target.name) for target in self.targets)
        lines = [_plan_line(target, width) for target in self.targets]
        total = f"{len(lines)} layers, {self.parameters:,} parameters, {self.mib:.1f} MiB in float32"
        return "\n".join([*lines, total])


def iter_targets(model: nn.Module, spec: AdapterSpec) -> Iterator[Target]:
    """The layers inside `model` that `spec` names, in its order; ValueError at one that cannot be adapted."""
    for name, module in named_modules(model):
        if name and isinstance(module, nn.Linear | nn.Conv2d) and _is_wanted(name, spec):
            yield _target(name, module, spec)


def plan_targets(model: nn.Module, spec: AdapterSpec) -> Plan:
    """The checked plan of `spec` in `model`.

    ValueError, naming the patterns and what comes near them, where nothing matches, a pattern matches no layer, a layer
    cannot be adapted, is shared by two parents, or every layer is too small for the rank.
    """
    _check_patterns(model, spec)
    targets = tuple(iter_targets(model, spec))
    if not targets:
        patterns = f"include {list(spec.include)}, exclude {list(spec.exclude)}"
        raise ValueError(f"no layer is left to adapt: {patterns}. Let include match a Linear or Conv2d.")
    _check_shared(model, {target.name for target in targets})
    if all(target.notice for target in targets):
        raise ValueError(f"the rank is above what any layer can hold: {targets[0].notice}. Lower it.")
    return Plan(targets)


def named_modules(model: nn.Module, *, with_aliases: bool = False) -> list[tuple[str, nn.Module]]:
    """With their paths; a module of two parents twice `with_aliases`."""
    untyped = cast(Any, model)  # PyTorch's own types are incomplete here
    return list(untyped.named_modules(remove_duplicate=not with_aliases))


def _is_wanted(name: str, spec: AdapterSpec) -> bool:
    return _matches_any(name, spec.include) and not _matches_any(name, spec.exclude)


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _target(name: str, module: nn.Linear | nn.Conv2d, spec: AdapterSpec) -> Target:
    _check_adaptable(name, module)
    if spec.kind == "full":
        return Target(name, module, 0, 1.0)
    shape = module.weight.shape
    rank, alpha = _rank_and_alpha(name, prod(shape[2:]) > 1, spec)
    limit = min(shape[0], prod(shape[1:]))
    notice = f"rank {rank} is clamped to {limit}, the full rank of {name}" if rank > limit else None
    scale = alpha / (sqrt(rank) if spec.rank_stabilised else rank)
    magnitudes = 0 if spec.kind == "lora" else shape[0 if spec.norm_axis == "output" else 1]
    return Target(name, module, min(rank, limit), scale, magnitudes, notice)


def _rank_and_alpha(name: str, has_kernel: bool, spec: AdapterSpec) -> tuple[int, float]:
    for rule in reversed(spec.rules):
        if fnmatchcase(name, rule.pattern):
            return rule.rank, rule.rank if rule.alpha is None else rule.alpha
    if has_kernel and spec.conv_rank is not None:
        alpha = spec.alpha if spec.conv_alpha is None else spec.conv_alpha
        return spec.conv_rank, spec.conv_rank if alpha is None else alpha
    alpha = spec.conv_alpha if has_kernel and spec.conv_alpha is not None else spec.alpha
    return spec.rank, spec.rank if alpha is None else alpha


def _check_adaptable(name: str, module: nn.Linear | nn.Conv2d) -> None:
    try:
        if type(module) not in (nn.Linear, nn.Conv2d):  # quantised, parametrised, read by its parent: all subclasses
            raise ValueError(f"a {type(module).__name__} is not a plain Linear or Conv2d")
        operation_of(module)
    except ValueError as error:
        raise ValueError(f"{name} cannot be adapted: {error}. Exclude it.") from None


def _check_patterns(model: nn.Module, spec: AdapterSpec) -> None:
    modules = named_modules(model, with_aliases=True)
    names = [name for name, module in modules if name and isinstance(module, nn.Linear | nn.Conv2d)]
    patterns = {"include": spec.include, "exclude": spec.exclude, "rule": [rule.pattern for rule in spec.rules]}
    unmatched = [
        f"{kind} pattern {pattern!r} matches no Linear or Conv2d of the model{_near(pattern, names)}"
        for kind, group in patterns.items()
        for pattern in group
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if unmatched:
        raise ValueError("; ".join(unmatched) + ".")


def _near(pattern: str, names: Iterable[str]) -> str:
    """The most similar endings of layer names, as long as the pattern's literal part."""
    literal = pattern.strip("*.")
    length = literal.count(".") + 1
    endings = Counter(".".join(name.split(".")[-length:]) for name in names)
    close = difflib.get_close_matches(literal, endings, n=3, cutoff=0.5)
    return f"; near it: {', '.join(close)}" if close else ""


def _check_shared(model: nn.Module, names: set[str]) -> None:
    paths: dict[int, list[str]] = {}
    for name, module in named_modules(model, with_aliases=True):
        paths.setdefault(id(module), []).append(name)
    for same in paths.values():
        if len(same) > 1 and names.intersection(same):
            raise ValueError(f"{' and '.join(same)} are one module: exclude it, as only one of them would be adapted.")


def _plan_line(target: Target, width: int) -> str:
    shape = "x".join(str(size) for size in target.module.weight.shape)
    notice = f"  ({target.notice})" if target.notice else ""
    size = f"rank {target.rank:4}" if target.rank else "full size"
    return f"{target.name:{width}}  {shape:>16}  {size}  {target.parameters:10,}{notice}"
