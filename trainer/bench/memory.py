"""What a step needs besides weights: bytes kept for backward, and bytes alive at the worst moment."""

from __future__ import annotations

import torch

from trainer.bench.report import Column, Table
from trainer.bench.saved_bytes import FlashAttention, LiveBytes, saved_bytes
from trainer.bench.timing import Call
from trainer.bench.unet import Workload, forward_backward, make_batch, make_unet
from trainer.bench.variants import REFERENCE, VARIANTS, adapt_with_lycoris, random_states

MIB = 2**20


def meta_table(workload: Workload) -> Table:
    """Bytes kept for backward, in bfloat16 and without checkpointing: counted, on the meta device.

    LyCORIS is left out: it copies weights to the CPU. PEFT's factors are bfloat16 here, as autocast would use them.
    """
    device, dtype = torch.device("meta"), torch.bfloat16
    unet, batch = make_unet(workload, device, dtype), make_batch(workload, device, dtype)
    states = random_states(unet, workload.spec, seed=0)
    counts: dict[str, int] = {}
    for variant in VARIANTS:
        if variant.build is not adapt_with_lycoris:
            model = variant.adapt(unet, states).model.to(dtype)
            counts[variant.name] = saved_bytes(model, lambda model=model: model(**batch.inputs))
    del counts[VARIANTS[0].name]
    return _table(f"Kept for backward: {workload.title}, bfloat16", counts)


def peak_table(workload: Workload, device: torch.device, dtype: torch.dtype) -> Table:
    """Bytes at the peak of one forward and backward, less those alive before it."""
    unet, batch = make_unet(workload, device, dtype), make_batch(workload, device, dtype)
    states = random_states(unet, workload.spec, seed=0)
    peaks: dict[str, int] = {}
    for variant in VARIANTS:
        adapted = variant.adapt(unet, states)
        if adapted.parameters:
            peaks[variant.name] = peak_bytes(lambda adapted=adapted: forward_backward(adapted, batch), device)
    return _table(f"Peak: {workload.title}, {dtype}", peaks)


def peak_bytes(call: Call, device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with FlashAttention(), LiveBytes() as counted:
        call()
    return counted.peak


def _table(title: str, counts: dict[str, int]) -> Table:
    columns = (Column("variant"), Column("MiB", ".0f"), Column(f"/ {REFERENCE}", ".2f"))
    rows = tuple((name, count / MIB, count / counts[REFERENCE]) for name, count in counts.items())
    return Table(title, columns, rows)
