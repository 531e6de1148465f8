"""What a training step of SDXL keeps for backward at full size, counted on the meta device: nothing is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks

from dora_core import AdapterSpec, eject, inject
from tests.golden.regenerate import build

TRANSFORMER_LINEARS = ("*.transformer_blocks.*", "*.proj_in", "*.proj_out")


class FlashAttention(Function):
    """Keeps what a flash kernel keeps: query, key, value and the output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out


def flash_attention(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    return FlashAttention.apply(query, key, value)


def saved_bytes(unet: nn.Module, spec: AdapterSpec, inputs: tuple[Tensor, ...], added: dict[str, Tensor]) -> int:
    """Of all storages that one forward keeps for backward, each once; what the model holds anyway is not counted."""
    adapter = inject(unet, spec)
    assert len(adapter.layers) == 722
    resident = {tensor.untyped_storage()._cdata for tensor in [*unet.parameters(), *unet.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        if tensor.untyped_storage()._cdata not in resident:
            kept[tensor.untyped_storage()._cdata] = tensor

    with saved_tensors_hooks(keep, lambda _: pytest.fail("nothing runs backward")):
        unet(*inputs, added_cond_kwargs=added)
    eject(unet)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_sdxl_keeps_what_lora_keeps_on_the_input_axis_and_a_tenth_more_on_the_output_axis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", flash_attention)
    unet = build("unet-sdxl").to(torch.bfloat16).requires_grad_(False)
    with torch.device("meta"):
        inputs = (torch.empty(1, 4, 128, 128), torch.empty(1), torch.empty(1, 77, 2048))
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    inputs = tuple(value.bfloat16() for value in inputs)
    added = {name: value.bfloat16() for name, value in added.items()}

    def counted(spec: AdapterSpec) -> int:
        return saved_bytes(unet, spec, inputs, added)

    lora = counted(AdapterSpec(kind="lora", include=TRANSFORMER_LINEARS))
    assert 6.2 < lora / 2**30 < 6.4  # GiB, what PEFT's LoRA keeps too
    assert counted(AdapterSpec(norm_axis="input", include=TRANSFORMER_LINEARS)) <= 1.00 * lora
    assert counted(AdapterSpec(norm_axis="output", include=TRANSFORMER_LINEARS)) <= 1.10 * lora
