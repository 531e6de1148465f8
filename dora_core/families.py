"""The model families as tables: what they consist of, how they are named, how a file's header gives them away.

Free of torch. Adding a family means a row here, its module lists in `data/`, and a golden key list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from dora_core.header import Shape

Prediction = Literal["epsilon", "v"]
UnetNaming = Literal["diffusers", "sgm"]
TargetSet = Literal["attention", "attention-mlp", "attention-mlp-conv"]


@dataclass(frozen=True)
class Component:
    """One adaptable model of a pipeline, under diffusers' name for it."""

    name: str
    architecture: str  # the entry in data/architectures.json and the name of the module list
    kohya_prefix: str
    comfy_prefix: str  # ComfyUI's own name of the model, which OneTrainer can write


@dataclass(frozen=True)
class Family:
    name: str
    title: str
    components: tuple[Component, ...]
    unet_naming: UnetNaming  # what trainers of this family, and so kohya-style files, call the UNet's modules
    cross_attention_dim: int
    base_version: Mapping[Prediction, str]  # ss_base_model_version, as sd-scripts writes it
    model_spec: Mapping[Prediction, str]  # modelspec.architecture, likewise
    implementation: str  # modelspec.implementation of an adapter, likewise
    resolution_px: Mapping[Prediction, int]
    clip_skip: (
        int  # the text encoders' layer that it was made with, counted from their end; SD 2's file has no later one
    )

    def component(self, name: str) -> Component:
        return next(component for component in self.components if component.name == name)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="sd1",
            title="Stable Diffusion 1.x",
            components=(
                Component("unet", "unet-sd1", "lora_unet", "diffusion_model"),
                Component("text_encoder", "clip-l", "lora_te", "text_encoders.clip_l.transformer"),
            ),
            unet_naming="diffusers",
            cross_attention_dim=768,
            base_version={"epsilon": "sd_v1", "v": "sd_v1_v"},
            model_spec={"epsilon": "stable-diffusion-v1", "v": "stable-diffusion-v1"},
            implementation="diffusers",
            resolution_px={"epsilon": 512, "v": 512},
            clip_skip=1,
        ),
        Family(
            name="sd2",
            title="Stable Diffusion 2.x",
            components=(
                Component("unet", "unet-sd2", "lora_unet", "diffusion_model"),
                Component("text_encoder", "openclip-h", "lora_te", "text_encoders.clip_h.transformer"),
            ),
            unet_naming="diffusers",
            cross_attention_dim=1024,
            base_version={"epsilon": "sd_v2", "v": "sd_v2_v"},
            model_spec={"epsilon": "stable-diffusion-v2-512", "v": "stable-diffusion-v2-768-v"},
            implementation="diffusers",
            resolution_px={"epsilon": 512, "v": 768},
            clip_skip=2,
        ),
        Family(
            name="sdxl",
            title="Stable Diffusion XL",
            components=(
                Component("unet", "unet-sdxl", "lora_unet", "diffusion_model"),
                Component("text_encoder", "clip-l", "lora_te1", "text_encoders.clip_l.transformer"),
                Component("text_encoder_2", "openclip-g", "lora_te2", "text_encoders.clip_g.transformer"),
            ),
            unet_naming="sgm",
            cross_attention_dim=2048,
            base_version={"epsilon": "sdxl_base_v1-0", "v": "sdxl_base_v1-0"},
            model_spec={"epsilon": "stable-diffusion-xl-v1-base", "v": "stable-diffusion-xl-v1-base"},
            implementation="https://github.com/Stability-AI/generative-models",
            resolution_px={"epsilon": 1024, "v": 1024},
            clip_skip=2,
        ),
    )
}

# Globs over module paths for AdapterSpec.include, one set per use; each matches in every member of every family,
# whether its text encoder's paths start with "text_model." or not.
UNET_TARGETS: Mapping[TargetSet, tuple[str, ...]] = {
    "attention": ("*.attn[12].to_[qkv]", "*.attn[12].to_out.0"),
    "attention-mlp": ("*.attentions.*",),
    "attention-mlp-conv": ("*.attentions.*", "*.resnets.*", "*samplers.*.conv"),
}
TEXT_ENCODER_TARGETS: Mapping[TargetSet, tuple[str, ...]] = {
    "attention": ("*.self_attn.*",),
    "attention-mlp": ("*.self_attn.*", "*.mlp.fc[12]"),
    "attention-mlp-conv": ("*.self_attn.*", "*.mlp.fc[12]"),
}


@dataclass(frozen=True)
class ModelModules:
    """Every module of one model that an adapter file can name, with its weight's shape.

    Names are neutral ones, ``<component>.<module path>`` as in AdapterState. `modules_of` makes them for a model at
    hand (a smaller member of a family, say); `shipped_modules` holds those of the released models.
    """

    family: Family
    shapes: Mapping[str, Shape]


@cache
def shipped_modules(family: str) -> ModelModules:
    """Every Linear and Conv2d of the family's UNet and every projection of its text encoders, from the package data."""
    row = FAMILIES[family]
    return ModelModules(
        row,
        {
            f"{component.name}.{path}": shape
            for component in row.components
            for path, shape in module_list(component.architecture).items()
        },
    )


def module_list(architecture: str) -> dict[str, Shape]:
    """Module path -> weight shape, read from data/<architecture>.txt."""
    text = resources.files("dora_core").joinpath("data", f"{architecture}.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines())
    return {path: tuple(map(int, shape.split("x"))) for path, shape in rows}


def neutral_name(component: str, path: str) -> str:
    """``<component>.<module path>``; text encoders with the ``text_model.`` that transformers 5.6 dropped for some."""
    if component.startswith("text_encoder") and not path.startswith("text_model."):
        path = f"text_model.{path}"
    return f"{component}.{path}"


@dataclass(frozen=True)
class Detection:
    family: str
    prediction: Prediction | None  # None: the header does not say


def detect_family(shapes: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> Detection | None:
    """The family of a checkpoint (SGM or diffusers names) or of an adapter (any layout), told from its header.

    Structure decides, so that smaller members count as well: size embeddings mean SDXL, a convolution as proj_in SD1,
    a linear one SD2. An adapter that touches none of these is told by its metadata, then by the width of its context.
    None: not one of the three.
    """
    if any(_OTHER_MODELS.search(key) for key in shapes):
        return None
    facts = metadata or {}
    family = _by_structure(shapes) or _by_metadata(facts) or _by_width(shapes)
    return None if family is None else Detection(family, _prediction(shapes, facts))


_OTHER_MODELS = re.compile(
    r"double_blocks|single_blocks|joint_blocks|transformer\.transformer_blocks|diffusion_model\.transformer_blocks"
    r"|lora_transformer|temporal|control_model|conditioner\.embedders\.0\.model\."  # the last: SDXL's refiner
)
_SDXL_ONLY = re.compile(
    r"label_emb|add_embedding|^conditioner\.embedders\.1\.|^lora_te2_|^text_encoder_2\.|^text_encoders\.clip_g\."
    r"|transformer_blocks[._][2-9][._]"  # ten of them in its innermost blocks, one elsewhere
)
_PROJ_IN = re.compile(r"(down_blocks|input_blocks|mid_block|middle_block|up_blocks|output_blocks).*proj_in\b")
_CONTEXT = re.compile(r"attn2[._]to_[kv]\b")
_TEXT_ATTENTION = re.compile(r"^(lora_te_|text_encoder\.).*self_attn[._][qkv]_proj\b")
_NOT_INPUT_SIDE = re.compile(r"\.(lora_up|lora_B|lora\.up|lora_mid|lora_magnitude_vector|alpha|dora_scale|bias)\b")


def _by_structure(shapes: Mapping[str, Shape]) -> str | None:
    if any(_SDXL_ONLY.search(key) for key in shapes):
        return "sdxl"
    proj_in = _input_side(shapes, _PROJ_IN)
    context = _input_side(shapes, _CONTEXT)
    if not proj_in or not context:
        return None
    is_sd2 = len(proj_in[0]) == 2 or context[0][1] == FAMILIES["sd2"].cross_attention_dim  # old sd-scripts: 4-D in SD2
    return "sd2" if is_sd2 else "sd1"


def _by_metadata(metadata: Mapping[str, str]) -> str | None:
    version = metadata.get("ss_base_model_version") or "?"
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    for name, family in FAMILIES.items():
        known_version = any(known.startswith(version) for known in family.base_version.values())  # OneTrainer: "sdxl_"
        if name == metadata.get("dora_studio.family") or known_version or architecture in family.model_spec.values():
            return name
    return None


def _by_width(shapes: Mapping[str, Shape]) -> str | None:
    inputs = _input_side(shapes, _CONTEXT) or _input_side(shapes, _TEXT_ATTENTION)
    widths = {shape[1] for shape in inputs}
    return next((name for name, family in FAMILIES.items() if widths == {family.cross_attention_dim}), None)


def _input_side(shapes: Mapping[str, Shape], module: re.Pattern[str]) -> list[Shape]:
    """Shapes of the matching modules' base weights or lora_downs: (something, in, ...) in both."""
    return [
        shape
        for key, shape in shapes.items()
        if len(shape) in (2, 4) and module.search(key) and not _NOT_INPUT_SIDE.search(key)
    ]


def _prediction(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> Prediction | None:
    """SDXL checkpoints trained for v carry a `v_pred` entry by custom; others can only say it in their metadata.

    `predict_key` is what ComfyUI writes when it saves a checkpoint.
    """
    stated = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key", "")
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    version = metadata.get("ss_base_model_version", "")
    if "v_pred" in shapes or stated.startswith("v") or architecture.endswith("-v") or version.endswith("_v"):
        return "v"
    return "epsilon" if stated == "epsilon" else None
