"""Which layers of a model a spec names, with what rank: the plan that can be read before anything changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, cast

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from dora_core.operations import operation_of
from dora_core.patterns import near, unmatched
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
        if name and isinstance(module, nn.Linear | nn.Conv2d) and spec.takes(name):
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


def _target(name: str, module: nn.Linear | nn.Conv2d, spec: AdapterSpec) -> Target:
    _check_adaptable(name, module)
    if spec.kind == "full":
        return Target(name, module, 0, 1.0)
    shape = module.weight.shape
    rank, alpha = spec.rank_and_alpha(name, prod(shape[2:]) > 1)
    limit = min(shape[0], prod(shape[1:]))
    notice = f"rank {rank} is clamped to {limit}, the full rank of {name}" if rank > limit else None
    scale = alpha / (sqrt(rank) if spec.rank_stabilised else rank)
    magnitudes = 0 if spec.kind == "lora" else shape[0 if spec.norm_axis == "output" else 1]
    return Target(name, module, min(rank, limit), scale, magnitudes, notice)


def _check_adaptable(name: str, module: nn.Linear | nn.Conv2d) -> None:
    try:
        # A subclass may compute something else, or be read by its parent. A parametrised weight (a quantised one, say)
        # is read as every other.
        if type_before_parametrizations(module) not in (nn.Linear, nn.Conv2d):
            raise ValueError(f"a {type(module).__name__} is not a plain Linear or Conv2d")
        operation_of(module)
    except ValueError as error:
        raise ValueError(f"{name} cannot be adapted: {error}. Exclude it.") from None


def _check_patterns(model: nn.Module, spec: AdapterSpec) -> None:
    modules = named_modules(model, with_aliases=True)
    names = [name for name, module in modules if name and isinstance(module, nn.Linear | nn.Conv2d)]
    targets = [name for name in names if spec.takes(name)]
    groups = [
        ("include", spec.include, names, "no Linear or Conv2d of the model"),
        ("exclude", spec.exclude, names, "no Linear or Conv2d of the model"),
        ("rule", [rule.pattern for rule in spec.rules], targets, "no layer that is adapted"),
    ]
    wrong = [
        f"{kind} pattern {pattern!r} matches {none}{near(pattern, those)}"
        for kind, patterns, those, none in groups
        for pattern in unmatched(patterns, those)
    ]
    if wrong:
        raise ValueError("; ".join(wrong) + ".")


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
