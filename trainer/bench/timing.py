"""Times of several calls taken in turns, so that a change of the machine's load falls on all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """One run of a call. `busy_ms` is what no other program can lengthen much: CPU time of all threads, or GPU time."""

    wall_ms: float
    busy_ms: float


@dataclass(frozen=True)
class Timing:
    """All runs of one call, in the order of the rounds."""

    samples: tuple[Sample, ...]

    @property
    def wall_ms(self) -> tuple[float, ...]:
        return tuple(sample.wall_ms for sample in self.samples)

    @property
    def busy_ms(self) -> tuple[float, ...]:
        return tuple(sample.busy_ms for sample in self.samples)

    def paired_ratio(self, reference: Timing) -> float:
        """Median over the rounds of the busy time over the reference's in the same round."""
        return median(own / other for own, other in zip(self.busy_ms, reference.busy_ms, strict=True))


Clock = Callable[[Call], Sample]


def interleave(calls: Mapping[str, Call], rounds: int, clock: Clock, warmup: int = 2) -> dict[str, Timing]:
    """Each call once per round, in an order shuffled anew for each, after `warmup` rounds that do not count."""
    order = list(calls)
    shuffle = random.Random(0).shuffle
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    with _collecting_between_rounds() as collect:
        for turn in range(warmup + rounds):
            collect()
            shuffle(order)
            for name in order:
                sample = clock(calls[name])
                if turn >= warmup:
                    samples[name].append(sample)
    return {name: Timing(tuple(taken)) for name, taken in samples.items()}


def cpu_clock(call: Call) -> Sample:
    wall, busy = time.perf_counter(), time.process_time()
    call()
    busy, wall = time.process_time() - busy, time.perf_counter() - wall
    return Sample(wall * 1e3, busy * 1e3)


def cuda_clock(call: Call) -> Sample:
    """Wall time until the GPU is done, and the time between two events on its stream."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    wall = time.perf_counter()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return Sample((time.perf_counter() - wall) * 1e3, start.elapsed_time(end))


@contextmanager
def _collecting_between_rounds() -> Iterator[Callable[[], object]]:
    """Garbage is collected when the caller says so, never within a call; what was there before is left out."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()
