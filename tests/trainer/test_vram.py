"""Memory before anything is loaded: parameters as in the injected model, activations as the meta device counts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch.nn.utils.parametrize import is_parametrized

from dora_core.families import FAMILIES, UNET_TARGETS
from dora_core.targets import plan_targets
from tests.trainer.test_loop import built
from trainer.adapter_specs import adapter_specs
from trainer.base_files import look_up
from trainer.checkpoints import size_bytes
from trainer.config_io import parse_config
from trainer.count_activations import COUNTED, MODES, decode_bytes_per_pixel, step_bytes_per_pixel
from trainer.optim import named_parameters
from trainer.optimizers import OPTIMIZERS, OptimizerKind
from trainer.quantised import quantise
from trainer.vram import (
    ACTIVATION_TABLE,
    adapter_parameters,
    checkpoint_bytes,
    quantised_bytes,
    state_bytes,
    training_memory,
    unmatched_patterns,
)

ADAPTERS: list[dict[str, Any]] = [
    {"kind": "lora", "rank": 3, "targets": "attention"},
    {"kind": "dora", "rank": 5, "targets": "attention-mlp", "text_encoder": True},
    {"kind": "dora", "norm_axis": "output", "rank": 5, "conv_rank": 2, "targets": "attention-mlp-conv"},
    {"rank": 3, "ranks": {"*.attn2.*": 2, "*.attn2.to_k": 4, "mid_block.*": 99}, "targets": "attention-mlp-conv"},
    {"kind": "full", "rank": 999, "targets": "attention-mlp-conv", "text_encoder": True},
    {"kind": "dora", "rank": 9, "include": ["*.attn2.*", "*.conv1"], "exclude": ["mid_block.*"]},  # above some widths
]


def config_of(base: str, **sections: Any) -> Any:
    return parse_config({"model": {"base": base}, "data": {"folder": "x", "resolution_px": 64}, **sections})


@pytest.mark.parametrize(("family", "adapter"), list(itertools.product(("sd1", "sd2", "sdxl"), ADAPTERS)))
def test_trainable_parameters_are_those_of_the_plan_of_the_loaded_model(
    tiny_base: Callable[[str], Path], family: str, adapter: dict[str, Any]
) -> None:
    facts, config = look_up(str(tiny_base(family))), config_of(str(tiny_base(family)), adapter=adapter)
    pipeline = DiffusionPipeline.from_pretrained(tiny_base(family))
    specs = adapter_specs(config.adapter, FAMILIES[family])
    assert len(specs) == (1 if not config.adapter.text_encoder else len(FAMILIES[family].components))
    planned = {part: plan_targets(getattr(pipeline, part), spec).parameters for part, spec in specs.items()}
    assert adapter_parameters(config, facts) == planned


def test_the_table_of_activations_is_what_the_meta_device_counts_and_pixels_are_all_that_matters() -> None:
    """Once the layers keep more or less for backward: python -m trainer.count_activations."""
    table = json.loads(ACTIVATION_TABLE.read_text())
    counted = step_bytes_per_pixel("sd1", "lora", "attention", "plain", 512)
    assert table["unet"]["sd1 attention plain"] == pytest.approx(counted, rel=0.02)
    assert step_bytes_per_pixel("sd1", "lora", "attention", "plain", 768) == pytest.approx(counted, rel=0.02)


def test_the_table_has_every_case_and_decoding_is_proportional_to_pixels() -> None:
    table = json.loads(ACTIVATION_TABLE.read_text())
    cases = [" ".join(case) for case in itertools.product(UNET_TARGETS, MODES)]
    assert set(table["output axis by input axis"]) == set(cases)
    assert set(table["unet"]) == {f"{family} {case}" for family in COUNTED for case in cases}
    assert table["vae"]["decode"] == pytest.approx(decode_bytes_per_pixel(256), rel=0.05)


def test_memory_is_counted_part_by_part_in_the_precision_of_each(tiny_base: Callable[[str], Path]) -> None:
    facts = look_up(str(tiny_base("sdxl")))
    config = config_of(str(tiny_base("sdxl")))
    memory = training_memory(config, facts, "bf16", on_card=True)
    sizes = {part.name: part.size_bytes for part in memory.sampling[:-1]} | {
        part.name: part.size_bytes for part in memory.step
    }
    trained = adapter_parameters(config, facts)["unet"]
    assert sizes["unet (bf16)"] == 2 * facts.parameters["unet"]
    assert sizes["text_encoder_2 (bf16)"] == 2 * facts.parameters["text_encoder_2"]
    assert sizes["vae (fp32)"] == 4 * facts.parameters["vae"]
    assert sizes["adapter (fp32)"] == 4 * trained
    assert sizes["gradients"] == 4 * trained
    assert sizes["state of adamw"] == 8 * trained
    aside = ("vae (fp32)", "text_encoder (bf16)", "text_encoder_2 (bf16)")  # of a card, where they only draw
    assert memory.step_bytes == sum(size for name, size in sizes.items() if name not in aside)
    assert memory.sampling_bytes == sum(sizes.values()) - sizes["activations"] + memory.sampling[-1].size_bytes
    assert memory.peak_bytes == max(memory.step_bytes, memory.sampling_bytes)
    estimates = {part.name for part in (*memory.step, *memory.sampling) if not part.is_counted}
    assert estimates == {"driver and kernels", "activations", "decoding a sample"}


@pytest.mark.parametrize("kind", [kind for kind, row in OPTIMIZERS.items() if not row.package])
def test_the_state_of_every_optimizer_is_as_large_as_said(
    tmp_path: Path, tiny_settings: Callable[..., Any], kind: OptimizerKind
) -> None:
    adapter = {"rank": 3, "targets": "attention-mlp-conv", "text_encoder": True}
    config = tiny_settings("sdxl", adapter=adapter, optim={"kind": kind})
    _, training = built(tmp_path, config)
    for parameter in named_parameters(training.adapters).values():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()
    real = sum(
        value.nbytes
        for values in training.optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.dim() > 0
    )
    facts = look_up(config.model.base)
    assert sum(state_bytes(config, facts).values()) == real
    adapter_bytes = 4 * sum(adapter_parameters(config, facts).values())
    own = adapter_bytes if kind == "adamw-schedule-free" else 0
    assert checkpoint_bytes(config, facts) == size_bytes(training) == adapter_bytes + real + own


def test_activations_grow_with_pixels_and_batch_and_shrink_with_checkpointing(tiny_base: Callable[[str], Path]) -> None:
    facts = look_up(str(tiny_base("sd1")))

    def activations(precision: Any = "fp32", **train: Any) -> int:
        return training_memory(config_of("x", train=train), facts, precision, on_card=False).step[-1].size_bytes

    assert activations(batch_size=3) == pytest.approx(3 * activations(), rel=1e-4)
    assert activations("bf16") == pytest.approx(activations() / 2, rel=1e-4)
    whole, half = (activations(checkpointing=True, checkpointed=which) for which in ("all", "transformers"))
    assert whole < half < activations() / 2


def test_text_encoders_stay_on_a_card_where_steps_need_them_and_all_parts_do_on_a_processor(
    tiny_base: Callable[[str], Path],
) -> None:
    facts = look_up(str(tiny_base("sdxl")))

    def held(on_card: bool = True, is_text_live: bool = False, **adapter: Any) -> set[str]:
        memory = training_memory(config_of("x", adapter=adapter), facts, "bf16", on_card, is_text_live)
        return {part.name.partition(" ")[0] for part in memory.step} & facts.parameters.keys()

    assert held() == {"unet"}
    assert held(is_text_live=True) == held(text_encoder=True) == {"unet", "text_encoder", "text_encoder_2"}
    assert held(on_card=False) == facts.parameters.keys()


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_a_quantised_unet_takes_as_much_as_the_packed_one(tiny_base: Callable[[str], Path], bits: Any) -> None:
    if bits == "nf4":
        pytest.importorskip("bitsandbytes")
    unet = DiffusionPipeline.from_pretrained(tiny_base("sdxl")).unet.requires_grad_(False)
    quantise(unet, bits)
    tensors = [*unet.parameters(), *unet.buffers()]
    scales = sum(  # which bitsandbytes keeps elsewhere
        module.parametrizations.weight[0].quant_state.absmax.numel() * 4
        for module in unet.modules()
        if bits == "nf4" and is_parametrized(module, "weight")
    )
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors) + scales
    assert quantised_bytes(look_up(str(tiny_base("sdxl"))), bits, 4) == held


def test_globs_that_no_layer_has_are_found(tiny_base: Callable[[str], Path]) -> None:
    facts = look_up(str(tiny_base("sd1")))
    config = config_of("x", adapter={"include": ["*.attn1.*", "*.atn2.*"], "exclude": ["up_block.*"]})
    assert unmatched_patterns(config, facts) == {
        "adapter.include": ["'*.atn2.*'"],
        "adapter.exclude": ["'up_block.*'"],
    }
    ranks = {"*.attn2.to_q": 3, "*.ff.*": 2, "*.to_qq": 2}
    wrong = unmatched_patterns(config_of("x", adapter={"ranks": ranks}), facts)
    assert wrong == {"adapter.ranks": ["'*.ff.*'", "'*.to_qq'; near it: to_q, to_v, to_k"]}
