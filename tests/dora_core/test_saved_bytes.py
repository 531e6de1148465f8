"""What a training step of SDXL keeps for backward at full size, counted on the meta device: nothing is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from dora_core import AdapterSpec, eject, inject
from tests.golden.regenerate import build
from trainer.bench.saved_bytes import saved_bytes

TRANSFORMER_LINEARS = ("*.transformer_blocks.*", "*.proj_in", "*.proj_out")


def test_sdxl_keeps_what_lora_keeps_on_the_input_axis_and_a_tenth_more_on_the_output_axis() -> None:
    unet = build("unet-sdxl").to(torch.bfloat16).requires_grad_(False)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    added = {"text_embeds": empty(1, 1280), "time_ids": empty(1, 6)}

    def counted(spec: AdapterSpec) -> int:
        assert len(inject(unet, spec).layers) == 722
        count = saved_bytes(
            unet, lambda: unet(empty(1, 4, 128, 128), empty(1), empty(1, 77, 2048), added_cond_kwargs=added)
        )
        eject(unet)
        return count

    lora = counted(AdapterSpec(kind="lora", include=TRANSFORMER_LINEARS))
    assert 6.2 < lora / 2**30 < 6.4  # GiB, what PEFT's LoRA keeps too
    assert counted(AdapterSpec(norm_axis="input", include=TRANSFORMER_LINEARS)) <= 1.00 * lora
    assert counted(AdapterSpec(norm_axis="output", include=TRANSFORMER_LINEARS)) <= 1.10 * lora
    assert counted(AdapterSpec(kind="full", include=TRANSFORMER_LINEARS)) <= 1.00 * lora  # no weight is kept twice
