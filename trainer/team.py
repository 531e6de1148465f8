"""Several processes that share the batches of every step: what they add up, and what the first tells the others.

Of a step's batches process r of n takes r, r + n, r + 2n ...; everything random follows from a batch's number. So a run
means the same with any number of processes, but for the order in which gradients are summed. The first process decides
and writes; the others wait for its word at every step boundary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

from trainer.failures import ExplainedError
from trainer.launched import processes_launched

Word = Literal["go", "wait", "stop"]
WORDS: tuple[Word, ...] = get_args(Word)
TIMEOUT = timedelta(minutes=30)  # for the longest that the first process is silent: the export of a large model


class LostProcessError(ExplainedError):
    """Another process of the run has ended, or hangs."""

    category = "process lost"

    def __init__(self) -> None:
        super().__init__(
            "Another process of this run ended, or did not answer for half an hour.",
            "What it said is above, or in its own log. Resume the run, with as many processes as there are cards.",
        )


class StoppedError(Exception):
    """The first process said that the run is to stop."""


@dataclass(frozen=True)
class Team:
    """The processes of a run, of which this is the one with number `rank`. Alone, everything here does nothing.

    Every method but `share` is to be called by all of them; each raises LostProcessError where one does not take part.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, batches: int) -> range:
        """Those of a step's batches that are this process'."""
        return range(self.rank, batches, self.size)

    def add_up(self, parameters: Iterable[nn.Parameter], numbers: Tensor) -> Tensor:
        """Sum the gradients, in place, and some numbers, (count,), over all processes, in one message.

        They are equal to the bit everywhere then.
        """
        if self.size == 1:
            return numbers
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        together = torch.cat([*(gradient.flatten() for gradient in gradients), numbers])
        with _answered():
            dist.all_reduce(together)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, total in zip(gradients, together[: -len(numbers)].split(sizes), strict=True):
            gradient.copy_(total.view_as(gradient))
        return together[-len(numbers) :]

    def tell(self, word: Word) -> None:
        """Of the first process; each is heard once. "wait", now and then, keeps the others from giving up."""
        if self.size > 1:
            with _answered():
                dist.broadcast(torch.tensor(WORDS.index(word)), 0)

    def hear(self) -> None:
        """Of the others: return when the first says "go". Raises StoppedError."""
        heard = torch.tensor(WORDS.index("wait"))
        while WORDS[int(heard)] == "wait":
            with _answered():
                dist.broadcast(heard, 0)
        if WORDS[int(heard)] == "stop":
            raise StoppedError

    def collect(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """What each process has, in their order, without repetitions."""
        if self.size == 1:
            return own
        everyone: list[Any] = [None] * self.size
        with _answered():
            dist.all_gather_object(everyone, own)
        return tuple(dict.fromkeys(one for its in everyone for one in its))

    def agree(self, on: tuple[str, ...]) -> tuple[str, ...]:
        """What the first process has."""
        if self.size == 1:
            return on
        first: list[Any] = [on]
        with _answered():
            dist.broadcast_object_list(first, 0)
        return first[0]


ALONE = Team()


def join_team() -> Team:
    """The team that a launcher (`accelerate launch`, `torchrun`) has started this process in, else one of its own.

    Each process gets a card of its own; without cards they share the processor.
    """
    if processes_launched() == 1:
        return ALONE
    has_cards = torch.cuda.is_available()
    backend = {"backend": "cpu:gloo,cuda:nccl"} if has_cards else {}  # words go by way of the processor
    state = PartialState(cpu=not has_cards, timeout=TIMEOUT, **backend)
    return Team(state.process_index, state.num_processes)


def leave_team() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def require_shares(batches: int, team: Team) -> None:
    """Raises ExplainedError where a process would have nothing to do."""
    if batches < team.size:
        raise ExplainedError(
            f"{team.size} processes cannot share the batches of a step: train.accumulation is {batches}.",
            f"Set train.accumulation to {team.size} or a multiple of it: a step has train.batch_size x "
            "train.accumulation pictures, however many processes share them.",
        )


def note_on_shares(batches: int, team: Team) -> str:
    """Empty, or that some processes will wait for others."""
    if batches % team.size == 0:
        return ""
    return (
        f"{team.size} processes share the {batches} batches of a step (train.accumulation), so that some wait for "
        f"others in every step: with a multiple of {team.size} none would."
    )


@contextmanager
def _answered() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's alike
        raise LostProcessError from error
