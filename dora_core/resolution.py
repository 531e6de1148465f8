"""Which of a file's modules a program finds in its own tables of names. Free of torch.

Taken from the programs' own mappers, run over every Linear and Conv2d of SD1.5 and SDXL. A module that is not found is
left as it was; most programs say no word about it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dora_core.families import ModelModules, UnetNaming
from dora_core.keymap import kohya_map
from dora_core.layouts import AdapterInfo
from dora_core.rendering import A1111, DIFFUSERS, FORGE, INVOKEAI, SDNEXT

# Names in diffusers' style that the mapper loses although it knows the style; of SDXL only.
_LOST: Mapping[str, frozenset[str]] = {
    A1111: frozenset(
        {
            "lora_unet_add_embedding_linear_1",
            "lora_unet_add_embedding_linear_2",
            "lora_unet_up_blocks_0_upsamplers_0_conv",
        }
    ),
    # both fall onto one name
    DIFFUSERS: frozenset({"lora_unet_add_embedding_linear_1", "lora_unet_add_embedding_linear_2"}),
}
_FORGE_LIMIT = 12  # keys that Forge puts up with before it refuses the whole file


def unresolved_modules(program: str, info: AdapterInfo, modules: ModelModules) -> frozenset[str]:
    """The file's own names of the modules that `program` would not find, for a file in a layout that it reads."""
    names = frozenset(info.modules)
    if info.layout == "peft":  # whose names are those of the modules themselves, `text_model.` or not
        return frozenset()
    unknown = names - _known(program, modules) - _tolerated(program, names)
    if program == A1111:
        unknown |= _incomplete_attention(names, modules)
    if program == INVOKEAI and _mixes_namings(names, modules):
        return names
    if program == FORGE and sum(len(info.modules[name].keys) for name in unknown) > _FORGE_LIMIT:
        return names
    return unknown


def _known(program: str, modules: ModelModules) -> frozenset[str]:
    # InvokeAI matches SD1's and SD2's names with its own modules, which are diffusers'
    namings: tuple[UnetNaming, ...] = ("diffusers", "sgm")
    if program == INVOKEAI and modules.family.unet_naming == "diffusers":
        namings = ("diffusers",)
    known = frozenset[str]().union(*(kohya_map(modules, naming).from_file for naming in namings))
    return known - _LOST[program] if program in _LOST and modules.family.unet_naming == "sgm" else known


def _tolerated(program: str, names: Collection[str]) -> frozenset[str]:
    """Text-encoder names without ``text_model``, as trainers on transformers 5.6 and later write them by mistake."""
    if program not in (DIFFUSERS, SDNEXT):
        return frozenset()
    return frozenset(name for name in names if name.startswith("lora_te") and "_text_model_" not in name)


def _mixes_namings(names: Collection[str], modules: ModelModules) -> bool:
    styles = [set(kohya_map(modules, naming).from_file) for naming in ("diffusers", "sgm")]
    return all((style - other) & set(names) for style, other in (styles, styles[::-1]))


def _incomplete_attention(names: Collection[str], modules: ModelModules) -> frozenset[str]:
    """A1111 keeps OpenCLIP's fused attention, and applies q, k, v and out only where all four are there."""
    fused = tuple(c.kohya_prefix for c in modules.family.components if c.architecture.startswith("openclip"))
    blocks: dict[str, set[str]] = {}
    for name in names:
        block, found, _ = name.partition("_self_attn_")
        if found and name.startswith(fused):
            blocks.setdefault(block, set()).add(name)
    return frozenset(name for block in blocks.values() if len(block) < 4 for name in block)
