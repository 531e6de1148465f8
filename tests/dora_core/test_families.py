"""The tables agree with the real architectures, and a header gives its family away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import get_args

import diffusers
import pytest
import torch
from torch import nn

from dora_core.families import (
    FAMILIES,
    TEXT_ENCODER_TARGETS,
    UNET_TARGETS,
    Detection,
    TargetSet,
    UnetNaming,
    detect_family,
    module_list,
    neutral_name,
    shipped_modules,
)
from dora_core.header import Shape
from dora_core.keymap import module_paths
from tests.golden.regenerate import architectures, build, listed_modules

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("architecture", architectures())
def test_module_lists_are_what_diffusers_and_transformers_build(architecture: str) -> None:
    assert list(module_list(architecture).items()) == list(listed_modules(architecture).items())


@pytest.mark.parametrize(
    ("architecture", "count", "parameters"),
    [  # modules as counted in the released models, parameters as their model cards round them
        ("unet-sd1", 282, 860e6),
        ("unet-sd2", 282, 866e6),
        ("unet-sdxl", 794, 2567e6),
        ("clip-l", 72, 123e6),
        ("openclip-h", 138, 340e6),
        ("openclip-g", 192, 695e6),
    ],
)
def test_the_architectures_are_those_of_the_released_models(architecture: str, count: int, parameters: float) -> None:
    assert len(module_list(architecture)) == count
    assert sum(weight.numel() for weight in build(architecture).parameters()) == pytest.approx(parameters, rel=2e-3)


def matched(patterns: tuple[str, ...], paths: list[str]) -> set[str]:
    return {path for path in paths if any(fnmatchcase(path, pattern) for pattern in patterns)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", get_args(TargetSet))
def test_every_pattern_of_a_target_set_matches_in_every_family(family: str, targets: TargetSet) -> None:
    for component in FAMILIES[family].components:
        sets = UNET_TARGETS if component.name == "unet" else TEXT_ENCODER_TARGETS
        paths = list(module_list(component.architecture))
        for spelled in (paths, [path.removeprefix("text_model.") for path in paths]):  # transformers >= 5.6
            assert all(matched((pattern,), spelled) for pattern in sets[targets])


@pytest.mark.parametrize(
    ("architecture", "attention", "with_mlp", "with_conv"),
    [("unet-sd1", 128, 192, 278), ("unet-sd2", 128, 192, 278), ("unet-sdxl", 560, 722, 788)],
)
def test_target_sets_have_the_layers_that_sd_scripts_and_lycoris_adapt(
    architecture: str, attention: int, with_mlp: int, with_conv: int
) -> None:
    """8 projections of 16 (SDXL 70) transformer blocks; sd-scripts' 192 (722); all but embeddings, conv_in and _out."""
    paths = list(module_list(architecture))
    counts = [len(matched(UNET_TARGETS[targets], paths)) for targets in get_args(TargetSet)]
    assert counts == [attention, with_mlp, with_conv]


def test_neutral_names_are_the_same_for_every_transformers_version() -> None:
    paths = [path for path, module in build("clip-l").named_modules() if isinstance(module, nn.Linear)]
    flattened = {neutral_name("text_encoder", path.removeprefix("text_model.")) for path in paths}
    nested = {neutral_name("text_encoder", f"text_model.{path.removeprefix('text_model.')}") for path in paths}
    shipped = {name for name in shipped_modules("sd1").shapes if name.startswith("text_encoder.")}
    assert flattened == nested == shipped


# --- detection ------------------------------------------------------------------------------------------------------

CHECKPOINT = "model.diffusion_model."


def unet_header(family: str, naming: UnetNaming, prefix: str) -> dict[str, Shape]:
    modules = shipped_modules(family)
    paths = module_paths(modules, naming)
    return {
        f"{prefix}{paths[name]}.weight": shape for name, shape in modules.shapes.items() if name.startswith("unet.")
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", CHECKPOINT, "unet."])
@pytest.mark.parametrize("naming", ["diffusers", "sgm"])
def test_checkpoints_are_told_in_either_naming(family: str, prefix: str, naming: UnetNaming) -> None:
    assert detect_family(unet_header(family, naming, prefix)) == Detection(family, None)


REAL_CHECKPOINTS: Mapping[str, tuple[str, dict[str, Shape]]] = {
    "sd1 single file": (
        "sd1",
        {
            f"{CHECKPOINT}input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
            f"{CHECKPOINT}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768),
            "first_stage_model.decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        },
    ),
    "sd2 single file": (
        "sd2",
        {
            f"{CHECKPOINT}input_blocks.1.1.proj_in.weight": (320, 320),
            f"{CHECKPOINT}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024),
        },
    ),
    "sdxl single file": (
        "sdxl",
        {
            f"{CHECKPOINT}label_emb.0.0.weight": (1280, 2816),
            f"{CHECKPOINT}input_blocks.4.1.proj_in.weight": (640, 640),
            f"{CHECKPOINT}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
            "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768),
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": (3840, 1280),
        },
    ),
}


@pytest.mark.parametrize(("family", "header"), REAL_CHECKPOINTS.values(), ids=REAL_CHECKPOINTS)
def test_the_keys_of_released_checkpoints_are_told(family: str, header: dict[str, Shape]) -> None:
    assert detect_family(header) == Detection(family, None)


OTHER_MODELS: Mapping[str, dict[str, Shape]] = {
    "sdxl refiner": {
        f"{CHECKPOINT}label_emb.0.0.weight": (1536, 2560),
        f"{CHECKPOINT}input_blocks.4.1.proj_in.weight": (768, 768),
        "conditioner.embedders.0.model.transformer.resblocks.0.attn.in_proj_weight": (3840, 1280),
    },
    "sd3": {f"{CHECKPOINT}joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536)},
    "flux": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "flux lora": {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (16, 3072)},
    "controlnet": {
        "control_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "vae alone": {"decoder.mid_block.attentions.0.to_q.weight": (512, 512)},
    "nothing": {},
}


@pytest.mark.parametrize("header", OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_other_models_are_none_of_the_three(header: dict[str, Shape]) -> None:
    assert detect_family(header) is None


@pytest.mark.parametrize(("use_linear", "family"), [(False, "sd1"), (True, "sd2")])
def test_a_small_member_is_told_by_its_structure(use_linear: bool, family: str) -> None:
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=48,
            attention_head_dim=8,
            use_linear_projection=use_linear,
        )
    header = {name: tuple(weight.shape) for name, weight in unet.state_dict().items()}
    assert detect_family(header) == Detection(family, None)


@pytest.mark.parametrize(
    ("family", "key", "width"),
    [
        ("sd1", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 768),
        ("sd2", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v", 1024),
        ("sdxl", "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k", 2048),
        ("sdxl", "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q", 1280),
        ("sd1", "lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768),
        ("sd2", "lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024),
        ("sdxl", "lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280),
    ],
)
def test_an_adapter_of_few_layers_is_told_by_its_widths(family: str, key: str, width: int) -> None:
    header = {f"{key}.lora_down.weight": (4, width), f"{key}.lora_up.weight": (320, 4), f"{key}.alpha": ()}
    assert detect_family(header) == Detection(family, None)


@pytest.mark.parametrize(
    ("metadata", "detection"),
    [
        ({"ss_base_model_version": "sd_v1"}, Detection("sd1", None)),
        ({"ss_base_model_version": "sd_v2_v"}, Detection("sd2", "v")),
        ({"ss_base_model_version": "sdxl_"}, Detection("sdxl", None)),  # OneTrainer
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, Detection("sd2", "v")),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base"}, Detection("sdxl", None)),
        ({"dora_studio.family": "sd1", "modelspec.prediction_type": "epsilon"}, Detection("sd1", "epsilon")),
        ({"ss_base_model_version": "flux1"}, None),
        ({}, None),
    ],
)
def test_where_shapes_do_not_tell_metadata_do(metadata: dict[str, str], detection: Detection | None) -> None:
    assert detect_family({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (4, 64, 3, 3)}, metadata) == detection


def test_sd2_is_told_also_where_an_old_sd_scripts_made_its_proj_in_a_convolution() -> None:
    block = "lora_unet_mid_block_attentions_0"
    header: dict[str, Shape] = {
        f"{block}_proj_in.lora_down.weight": (4, 1280, 1, 1),
        f"{block}_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 1024),
    }
    assert detect_family(header) == Detection("sd2", None)


def test_structure_outranks_metadata() -> None:
    assert detect_family(
        REAL_CHECKPOINTS["sd1 single file"][1], {"ss_base_model_version": "sdxl_base_v1-0"}
    ) == Detection("sd1", None)


def test_a_v_pred_entry_marks_v_prediction() -> None:
    header = REAL_CHECKPOINTS["sdxl single file"][1]
    assert detect_family({**header, "v_pred": ()}) == Detection("sdxl", "v")
    assert detect_family(header, {"modelspec.prediction_type": "v"}) == Detection("sdxl", "v")


def test_prefixes_of_kohya_names_are_unique_within_a_family() -> None:
    for family in FAMILIES.values():
        prefixes = [component.kohya_prefix for component in family.components]
        assert len(set(prefixes)) == len(prefixes)
        assert all(re.fullmatch(r"lora_(unet|te[12]?)", prefix) for prefix in prefixes)
