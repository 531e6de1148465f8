"""Averages of what is learned, which are what is validated, drawn, saved and exported where a run has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dora_core.adapter import Adapter


class Average(Protocol):
    def update(self, steps: int) -> None:
        """After the `steps`-th step that was taken."""
        ...

    def enter(self) -> None:
        """Put the average into the parameters."""
        ...

    def leave(self) -> None:
        """Told before the parameters get their own values back."""
        ...

    def restore(self) -> None:
        """Take the average from the parameters, which hold that of a checkpoint."""
        ...


class Ema:
    """e <- w e + (1 - w) p after every step, in float32, with w = min(decay, (1 + steps) / (10 + steps)).

    The second term lets it follow at first, when all that could be averaged is the start.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.values = _copies(self.parameters)

    def weight(self, steps: int) -> float:
        return min(self.decay, (1 + steps) / (10 + steps))

    @torch.no_grad()
    def update(self, steps: int) -> None:
        torch._foreach_lerp_(self.values, cast(list[Tensor], self.parameters), 1 - self.weight(steps))

    def enter(self) -> None:
        _copy(self.values, self.parameters)

    def leave(self) -> None:
        pass

    def restore(self) -> None:
        self.values = _copies(self.parameters)


class ScheduleFreeAverage:
    """x of schedule-free optimisation (arXiv 2405.15682, eq. 3 to 5); the gradients are taken at y between x and z."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = cast(Any, optimizer)  # `eval` and `train` are not of torch's own

    def update(self, steps: int) -> None:
        pass  # the optimizer has done it

    def enter(self) -> None:
        self.optimizer.eval()

    def leave(self) -> None:
        self.optimizer.train()

    def restore(self) -> None:
        pass  # it follows from y and z


@contextmanager
def shown(average: Average | None, adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """Inside, the adapters hold the average; afterwards, to the bit, what they held before."""
    if average is None:
        yield
        return
    parameters = [parameter for adapter in adapters.values() for parameter in adapter.parameters()]
    own = _copies(parameters)
    average.enter()
    _refresh(adapters)
    try:
        yield
    finally:
        average.leave()
        _copy(own, parameters)
        _refresh(adapters)


def _refresh(adapters: Mapping[str, Adapter]) -> None:
    for adapter in adapters.values():
        adapter.refresh_norms()


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value)
