"""The benches: which measurements they consist of, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from trainer.bench.gain import CASES as GAIN_CASES
from trainer.bench.gain import COMPILED_PATHS, PATHS, gain_table
from trainer.bench.layers import CPU_CASES, GPU_CASES, QUICK_CASES, layer_calls
from trainer.bench.memory import meta_table, peak_table
from trainer.bench.quality import QUICK, Scale, measure_quality
from trainer.bench.report import Table, timing_table
from trainer.bench.timing import Call, cpu_clock, cuda_clock, interleave
from trainer.bench.unet import TRANSFORMERS, Workload, fitting, gpu_workloads, sd_widths, sdxl, step_calls, tiny
from trainer.bench.variants import REFERENCE


@dataclass(frozen=True)
class Options:
    device: torch.device
    is_quick: bool
    with_compiled: bool
    rounds: int

    @classmethod
    def choose(
        cls, *, is_gpu: bool, is_quick: bool, with_compiled: bool, rounds: int | None, threads: int | None
    ) -> Options:
        """From a command line; sets the number of threads."""
        if threads is not None:
            torch.set_num_threads(threads)
        device = torch.device("cuda" if is_gpu else "cpu")
        return cls(device, is_quick, with_compiled, rounds or (3 if is_quick else 25))

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


def measure_layers(options: Options) -> Iterator[Table]:
    cases, rank = (QUICK_CASES, 3) if options.is_quick else (GPU_CASES if options.is_gpu else CPU_CASES, 16)
    for dtype in (torch.bfloat16,) if options.is_gpu else (torch.float32, torch.bfloat16):
        for case in cases:
            calls = layer_calls(case, options.device, dtype, rank, with_compiled=options.with_compiled)
            yield _timed(f"{case.title}, {_name(dtype)}", calls, options)
    paths = PATHS + COMPILED_PATHS if options.with_compiled else PATHS
    yield gain_table(GAIN_CASES, paths, options.device)


def measure_unet(options: Options) -> Iterator[Table]:
    for workload in _workloads(options):
        calls = step_calls(workload, options.device, _dtype(options), with_compiled=options.with_compiled)
        yield _timed(f"Training step: {workload.title}, {_name(_dtype(options))}", fitting(calls), options)


def measure_memory(options: Options) -> Iterator[Table]:
    yield meta_table(tiny() if options.is_quick else sdxl(TRANSFORMERS, "722 transformer layers"))
    for workload in _workloads(options):
        yield peak_table(workload, options.device, _dtype(options))


def quality(options: Options) -> Iterator[Table]:
    return measure_quality(QUICK if options.is_quick else Scale())


BENCHES: Mapping[str, Callable[[Options], Iterator[Table]]] = {
    "layers": measure_layers,
    "unet": measure_unet,
    "memory": measure_memory,
    "quality": quality,
}


def _workloads(options: Options) -> tuple[Workload, ...]:
    if options.is_quick:
        return (tiny(),)
    return gpu_workloads() if options.is_gpu else (sd_widths(),)


def _dtype(options: Options) -> torch.dtype:
    return torch.bfloat16 if options.is_gpu else torch.float32


def _timed(title: str, calls: Mapping[str, Call], options: Options) -> Table:
    clock, busy = (cuda_clock, "GPU") if options.is_gpu else (cpu_clock, "CPU")
    timings = interleave(calls, options.rounds, clock)
    return timing_table(f"{title}, {options.rounds} rounds", timings, REFERENCE, busy)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
