"""Names of files and of modules are told apart by look-up, both ways, and other programs read them as we do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers.loaders import lora_conversion_utils
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from torch import nn

from dora_core.families import FAMILIES, ModelModules, UnetNaming, shipped_modules
from dora_core.files import modules_of
from dora_core.keymap import kohya_map, module_paths, peft_map, spellings

GOLDEN = Path(__file__).parents[1] / "golden"

both_namings = pytest.mark.parametrize("naming", ["diffusers", "sgm"])
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_kohya_names_are_the_golden_list(family: str) -> None:
    names = kohya_map(shipped_modules(family)).to_file.values()
    assert sorted(names) == (GOLDEN / f"{family}-kohya.txt").read_text().splitlines()


@every_family
@both_namings
def test_every_module_of_every_family_goes_to_its_file_name_and_back(family: str, naming: UnetNaming) -> None:
    modules = shipped_modules(family)
    key_map = kohya_map(modules, naming)
    assert {key_map.from_file[key_map.to_file[name]] for name in modules.shapes} == set(modules.shapes)
    assert len(key_map.from_file) == len(modules.shapes)
    assert all("." not in name for name in key_map.from_file)  # A1111 splits a key at its first dot


@every_family
def test_no_spelling_stands_for_two_modules(family: str) -> None:
    modules = shipped_modules(family)
    known = spellings(modules)
    for key_map in (kohya_map(modules, "diffusers"), kohya_map(modules, "sgm"), peft_map(modules)):
        for name, file_name in key_map.to_file.items():
            assert known[file_name] == known[without_text_model(file_name)] == name
    for name, path in module_paths(modules, "sgm").items():
        if name.startswith("unet."):
            assert known[path] == known[f"diffusion_model.{path}"] == known[f"base_model.model.{name}"] == name


def without_text_model(name: str) -> str:
    return name.replace("text_model_", "").replace("text_model.", "")


def test_the_names_that_are_not_plain_renames() -> None:
    """Spot checks by hand against sd-scripts' own SDXL UNet and the table in Stability's generative-models."""
    to_file = kohya_map(shipped_modules("sdxl")).to_file
    expected = {
        "unet.conv_in": "lora_unet_input_blocks_0_0",
        "unet.conv_out": "lora_unet_out_2",
        "unet.time_embedding.linear_2": "lora_unet_time_embed_2",
        "unet.add_embedding.linear_1": "lora_unet_label_emb_0_0",
        "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_3_0_op",
        "unet.down_blocks.1.resnets.0.conv_shortcut": "lora_unet_input_blocks_4_0_skip_connection",
        "unet.down_blocks.1.attentions.0.proj_in": "lora_unet_input_blocks_4_1_proj_in",
        "unet.mid_block.resnets.1.time_emb_proj": "lora_unet_middle_block_2_emb_layers_1",
        "unet.up_blocks.0.upsamplers.0.conv": "lora_unet_output_blocks_2_2_conv",
        "unet.up_blocks.2.resnets.2.conv2": "lora_unet_output_blocks_8_0_out_layers_3",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj": (
            "lora_te2_text_model_encoder_layers_31_self_attn_out_proj"
        ),
    }
    assert {name: to_file[name] for name in expected} == expected


@every_family
def test_diffusers_reads_every_name_as_the_module_we_mean(family: str) -> None:
    """Each module's factors carry its own number; diffusers' converter has to put them where we say."""
    modules = shipped_modules(family)
    names = kohya_map(modules).to_file
    numbers = {name: float(number) for number, name in enumerate(sorted(modules.shapes))}
    state = {
        f"{names[name]}.{leaf}.weight": torch.tensor([[number]])
        for name, number in numbers.items()
        for leaf in ("lora_down", "lora_up")
    }
    if family == "sdxl":
        config = SimpleNamespace(layers_per_block=2)  # all that this function asks of a UNet's configuration
        state = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers(state, config)
    converted, _ = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(state)
    parts = {
        is_unet: {key: value for key, value in converted.items() if key.startswith("unet.") == is_unet}
        for is_unet in (True, False)
    }
    loaded = convert_unet_state_dict_to_peft(parts[True]) | convert_state_dict_to_peft(parts[False])
    found = {key.partition(".lora_A.")[0]: value.item() for key, value in loaded.items() if ".lora_A." in key}
    assert found == numbers


def test_the_map_of_a_model_at_hand_covers_its_modules_and_no_others() -> None:
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=48,
            attention_head_dim=8,
        )
    modules = modules_of("sd1", {"unet": unet})
    expected = {f"lora_unet_{path}".replace(".", "_") for path, module in unet.named_modules() if is_target(module)}
    assert set(kohya_map(modules).from_file) == expected
    sgm = set(module_paths(modules, "sgm").values())
    assert {"input_blocks.2.0.op", "input_blocks.3.0.skip_connection", "output_blocks.1.1.conv"} <= sgm
    assert {"output_blocks.3.1.proj_out", "middle_block.2.in_layers.2"} <= sgm


def is_target(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def test_two_modules_of_one_file_name_are_an_error() -> None:
    modules = ModelModules(FAMILIES["sd1"], {"unet.a.b_c": (3, 5), "unet.a_b.c": (3, 5)})
    with pytest.raises(ValueError, match="lora_unet_a_b_c"):
        kohya_map(modules)
