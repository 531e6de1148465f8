"""How much memory training takes, by part, without loading anything: counts where they can be had, else an estimate.

Weights, adapter, gradients and moments are counted from shapes. Activations come from a table, `activation_bytes.json`,
that `python -m trainer.count_activations` counts on the meta device for the released models; they are taken as
proportional to pixels, pictures in a batch and the UNet's width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

from dora_core.families import shipped_modules
from dora_core.header import Shape
from dora_core.patterns import near, unmatched
from dora_core.spec import AdapterSpec
from trainer.adapter_specs import adapter_spec, adapter_specs
from trainer.base_files import BaseFacts
from trainer.config import RunConfig
from trainer.config_sections import BaseBits, Precision

ACTIVATION_TABLE = Path(__file__).with_name("activation_bytes.json")
FLOAT32 = 4
BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
IN_BLOCKS = ("unet.down_blocks.", "unet.mid_block.", "unet.up_blocks.")  # as trainer.quantised packs
CUDA_CONTEXT_BYTES = 600 * 2**20  # of the driver, the kernels and the allocator's rounding; differs by card


@dataclass(frozen=True)
class MemoryPart:
    name: str
    size_bytes: int
    is_counted: bool  # else an estimate


@dataclass(frozen=True)
class Memory:
    """Of a training step, and of drawing a sample, which comes at other times."""

    step: tuple[MemoryPart, ...]
    sampling: tuple[MemoryPart, ...]

    @property
    def step_bytes(self) -> int:
        return sum(part.size_bytes for part in self.step)

    @property
    def sampling_bytes(self) -> int:
        return sum(part.size_bytes for part in self.sampling)

    @property
    def peak_bytes(self) -> int:
        return max(self.step_bytes, self.sampling_bytes)


def adapter_parameters(config: RunConfig, facts: BaseFacts) -> dict[str, int]:
    """Trainable parameters by part of the base model; needs a known family."""
    assert facts.family is not None
    specs = adapter_specs(config.adapter, facts.family)
    return {
        part: sum(prod(own) for layer in _targets(facts, part, spec) for own in layer.own_shapes(spec))
        for part, spec in specs.items()
    }


def state_bytes(config: RunConfig, facts: BaseFacts) -> dict[str, int]:
    """What the optimizer keeps of the trainable parameters, by part of the base model."""
    assert facts.family is not None
    count = config.optim.row.state_bytes
    specs = adapter_specs(config.adapter, facts.family)
    return {
        part: sum(count(own) for layer in _targets(facts, part, spec) for own in layer.own_shapes(spec))
        for part, spec in specs.items()
    }


def checkpoint_bytes(config: RunConfig, facts: BaseFacts) -> int:
    """The adapter, what the optimizer keeps, and beside an average the parameters themselves."""
    copies = 2 if config.optim.ema_decay or config.optim.row.is_schedule_free else 1
    trained = sum(adapter_parameters(config, facts).values())
    return copies * trained * FLOAT32 + sum(state_bytes(config, facts).values())


def unmatched_patterns(config: RunConfig, facts: BaseFacts) -> dict[str, list[str]]:
    """The user's globs that no layer of the UNet has (of ranks: no adapted one), by setting, with what is near."""
    adapter, names = config.adapter, [layer.name for layer in _layers(facts, "unet")]
    adapted = [layer.name for layer in _targets(facts, "unet", adapter_spec(adapter, "unet"))]
    settings = {
        "adapter.include": (adapter.include, names),
        "adapter.exclude": (adapter.exclude, names),
        "adapter.ranks": (adapter.ranks, adapted),
    }
    found = {
        key: [f"{pattern!r}{near(pattern, those)}" for pattern in unmatched(patterns, those)]
        for key, (patterns, those) in settings.items()
    }
    return {key: patterns for key, patterns in found.items() if patterns}


def parts_below_rank(config: RunConfig, facts: BaseFacts) -> dict[str, int]:
    """Parts of the base model in which no layer has the rank that it should get, with the largest that one has."""
    assert facts.family is not None
    below: dict[str, int] = {}
    for part, spec in adapter_specs(config.adapter, facts.family).items():
        layers = _targets(facts, part, spec)
        if spec.kind != "full" and layers and all(layer.rank(spec) > layer.full_rank for layer in layers):
            below[part] = max(layer.full_rank for layer in layers)
    return below


def training_memory(
    config: RunConfig, facts: BaseFacts, precision: Precision, on_card: bool, is_text_live: bool = False
) -> Memory:
    """The VAE in float32, the rest in `precision` (not auto), the UNet's blocks in `model.bits`.

    On a card the VAE, and the text encoders unless they are trained or `is_text_live`, are there to draw alone.
    """
    trained = sum(adapter_parameters(config, facts).values())
    weights = {part: _weight_part(part, config, facts, precision) for part in facts.parameters}
    needs_text = config.adapter.text_encoder or is_text_live
    aside = {part for part in weights if on_card and (part == "vae" or (part != "unet" and not needs_text))}
    learned = [
        MemoryPart("adapter (fp32)", trained * FLOAT32, facts.is_counted),
        MemoryPart("gradients", trained * FLOAT32, facts.is_counted),
        MemoryPart(f"state of {config.optim.kind}", sum(state_bytes(config, facts).values()), facts.is_counted),
        *(
            [MemoryPart("average of the adapter", trained * FLOAT32, facts.is_counted)]
            if config.optim.ema_decay
            else []
        ),
        *([MemoryPart("driver and kernels", CUDA_CONTEXT_BYTES, False)] if on_card else []),
    ]
    activations = MemoryPart("activations", _activation_bytes(config, facts, precision), False)
    decoding = MemoryPart("decoding a sample", _decoding_bytes(config), False)
    stays = [part for name, part in weights.items() if name not in aside]
    return Memory((*stays, *learned, activations), (*weights.values(), *learned, decoding))


def _weight_part(part: str, config: RunConfig, facts: BaseFacts, precision: Precision) -> MemoryPart:
    if part == "vae":
        return MemoryPart("vae (fp32)", facts.parameters[part] * FLOAT32, facts.is_counted)
    if part == "unet" and config.model.bits != "as-is":
        name = f"unet ({config.model.bits}, {precision})"
        return MemoryPart(name, quantised_bytes(facts, config.model.bits, BYTES[precision]), facts.is_counted)
    return MemoryPart(f"{part} ({precision})", facts.parameters[part] * BYTES[precision], facts.is_counted)


def quantised_bytes(facts: BaseFacts, bits: BaseBits, bytes_else: int) -> int:
    """Of the UNet: layers of its blocks packed, with their scales in float32; the rest in `bytes_else` a weight."""
    packed = {name: shape for name, shape in facts.shapes.items() if name.startswith(IN_BLOCKS)}
    if bits == "int8":
        layers = sum(prod(shape) + shape[0] * FLOAT32 for shape in packed.values())
    else:  # half a byte a weight, and a scale for each block of 64
        layers = sum(-(-prod(shape) // 2) + -(-prod(shape) // 64) * FLOAT32 for shape in packed.values())
    return layers + (facts.parameters["unet"] - sum(prod(shape) for shape in packed.values())) * bytes_else


@dataclass(frozen=True)
class _Layer:
    name: str
    shape: Shape

    def rank(self, spec: AdapterSpec) -> int:
        """That is asked for."""
        return spec.rank_and_alpha(self.name, prod(self.shape[2:]) > 1)[0]

    @property
    def full_rank(self) -> int:
        return min(self.shape[0], prod(self.shape[1:]))

    def own_shapes(self, spec: AdapterSpec) -> list[Shape]:
        """Of down, up and DoRA's magnitude, or of the full difference."""
        if spec.kind == "full":
            return [self.shape]
        (out, size, *kernel), ones = self.shape, (1,) * (len(self.shape) - 2)
        rank = min(self.rank(spec), self.full_rank)
        factors: list[Shape] = [(rank, size, *kernel), (out, rank, *ones)]
        magnitude = (out, 1, *ones) if spec.norm_axis == "output" else (1, size, *ones)
        return factors if spec.kind == "lora" else [*factors, magnitude]


def _targets(facts: BaseFacts, part: str, spec: AdapterSpec) -> list[_Layer]:
    return [layer for layer in _layers(facts, part) if spec.takes(layer.name)]


def _layers(facts: BaseFacts, part: str) -> list[_Layer]:
    start = f"{part}."
    return [_Layer(name.removeprefix(start), shape) for name, shape in facts.shapes.items() if name.startswith(start)]


def _activation_bytes(config: RunConfig, facts: BaseFacts, precision: Precision) -> int:
    assert facts.family is not None
    adapter = config.adapter
    mode = "transformers" if config.train.checkpointed == "transformers" else "checkpointing"
    case = f"{adapter.targets} {mode if config.train.checkpointing else 'plain'}"
    per_pixel = _table()["unet"][f"{_COUNTED_AS.get(facts.family.name, facts.family.name)} {case}"]
    if adapter.kind == "dora" and adapter.norm_axis == "output":  # the input axis keeps what LoRA keeps
        per_pixel *= _table()["output axis by input axis"][case]
    pixels = config.data.resolution_px**2 * config.train.batch_size
    width = facts.widest_block / shipped_modules(facts.family.name).shapes["unet.conv_in"][0]
    return round(per_pixel * pixels * width * BYTES[precision] / BYTES["bf16"])


_COUNTED_AS: Mapping[str, str] = {"sd2": "sd1"}  # the same blocks at the same widths


def _decoding_bytes(config: RunConfig) -> int:
    width, height = config.sample.size_px or (config.data.resolution_px,) * 2
    return round(_table()["vae"]["decode"] * width * height)


@cache
def _table() -> dict[str, dict[str, float]]:
    return json.loads(ACTIVATION_TABLE.read_text(encoding="utf-8"))
