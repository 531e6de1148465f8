"""What files call a module: a bijection between neutral names and one layout's names.

Free of torch. File names replace dots by underscores, which cannot be undone by looking at one name; so a map is built
from the real module paths of the model and inverted by look-up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from dora_core.families import ModelModules, UnetNaming


@dataclass(frozen=True)
class KeyMap:
    """Neutral name <-> name in the file. Raises ValueError where two modules would share a file name."""

    to_file: Mapping[str, str]

    def __post_init__(self) -> None:
        shared = [name for name, count in Counter(self.to_file.values()).items() if count > 1]
        if shared:
            raise ValueError(f"{len(shared)} file names stand for more than one module each, the first is {shared[0]}")

    @cached_property
    def from_file(self) -> dict[str, str]:
        return {file_name: name for name, file_name in self.to_file.items()}


def kohya_map(modules: ModelModules, naming: UnetNaming | None = None) -> KeyMap:
    """``lora_unet_...``, ``lora_te_...``: the names of sd-scripts and LyCORIS, by default in the family's naming."""
    prefixes = {component.name: component.kohya_prefix for component in modules.family.components}
    paths = module_paths(modules, naming or modules.family.unet_naming)
    return KeyMap({name: f"{prefixes[_component(name)]}_{path}".replace(".", "_") for name, path in paths.items()})


def peft_map(modules: ModelModules) -> KeyMap:
    """``unet.down_blocks.0...``: diffusers' names, which the neutral ones already are."""
    return KeyMap({name: name for name in modules.shapes})


def module_paths(modules: ModelModules, naming: UnetNaming) -> dict[str, str]:
    """Neutral name -> module path, the UNet's in the wanted naming."""
    paths = {name: name.partition(".")[2] for name in modules.shapes}
    if naming == "diffusers":
        return paths
    blocks = _Blocks.of({path for name, path in paths.items() if _component(name) == "unet"})
    return {name: _sgm_path(path, blocks) if _component(name) == "unet" else path for name, path in paths.items()}


def spellings(modules: ModelModules) -> dict[str, str]:
    """Every name under which a known trainer writes a module -> its neutral name."""
    return {
        spelling: name
        for full, name in _full_spellings(modules)
        for spelling in (full, full.replace("text_model.", "").replace("text_model_", ""))
    }


def _full_spellings(modules: ModelModules) -> Iterator[tuple[str, str]]:
    """Spelling, neutral name; `spellings` adds the ones without ``text_model`` (transformers 5.6 dropped it)."""
    for key_map in (kohya_map(modules, "diffusers"), kohya_map(modules, "sgm"), peft_map(modules)):
        yield from key_map.from_file.items()
    comfy_prefixes = {component.name: component.comfy_prefix for component in modules.family.components}
    for name, path in module_paths(modules, "sgm").items():
        yield f"{comfy_prefixes[_component(name)]}.{path}", name  # OneTrainer, ComfyUI format
        yield f"base_model.model.{name}", name  # PEFT around a pipeline's models
        if _component(name) == "unet":
            yield path, name  # OneTrainer, original format
            yield f"lycoris_{name.removeprefix('unet.')}".replace(".", "_"), name  # LyCORIS around any model
            yield f"base_model.model.{name.removeprefix('unet.')}", name  # PEFT around the UNet alone


def _component(name: str) -> str:
    return name.partition(".")[0]


@dataclass(frozen=True)
class _Blocks:
    """What turns diffusers' (block, layer) into the running number of the original code."""

    per_down: int  # input blocks of one down block: its resnets and its downsampler
    per_up: int
    up_with_attention: frozenset[str]

    @staticmethod
    def of(paths: set[str]) -> _Blocks:
        def resnets(block: str) -> int:
            return sum(path.startswith(f"{block}.resnets.") and path.endswith(".conv1") for path in paths)

        attention = {path.split(".")[1] for path in paths if path.startswith("up_blocks.") and ".attentions." in path}
        return _Blocks(resnets("down_blocks.0") + 1, resnets("up_blocks.0"), frozenset(attention))


_SGM_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_SGM_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def _sgm_path(path: str, blocks: _Blocks) -> str:
    """diffusers' UNet path in the names of Stability's generative-models code, which numbers all blocks in one row."""
    match path.split("."):
        case ["down_blocks", block, "resnets", layer, module]:
            return f"input_blocks.{1 + blocks.per_down * int(block) + int(layer)}.0.{_SGM_RESNET[module]}"
        case ["down_blocks", block, "attentions", layer, *rest]:
            return f"input_blocks.{1 + blocks.per_down * int(block) + int(layer)}.1.{'.'.join(rest)}"
        case ["down_blocks", block, "downsamplers", *_]:
            return f"input_blocks.{blocks.per_down * (int(block) + 1)}.0.op"
        case ["mid_block", "resnets", layer, module]:
            return f"middle_block.{2 * int(layer)}.{_SGM_RESNET[module]}"
        case ["mid_block", "attentions", _, *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case ["up_blocks", block, "resnets", layer, module]:
            return f"output_blocks.{blocks.per_up * int(block) + int(layer)}.0.{_SGM_RESNET[module]}"
        case ["up_blocks", block, "attentions", layer, *rest]:
            return f"output_blocks.{blocks.per_up * int(block) + int(layer)}.1.{'.'.join(rest)}"
        case ["up_blocks", block, "upsamplers", *_]:
            place = 2 if block in blocks.up_with_attention else 1
            return f"output_blocks.{blocks.per_up * (int(block) + 1) - 1}.{place}.conv"
        case _:
            return _SGM_OUTSIDE_BLOCKS.get(path, path)
