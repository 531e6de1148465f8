"""Files that other programs wrote are read as what they mean, or refused with the reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import diffusers
import peft
import pytest
import torch
from lycoris.wrapper import create_lycoris
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from dora_core.errors import FileFormatError
from dora_core.families import ModelModules, shipped_modules
from dora_core.files import read_adapter
from dora_core.keymap import kohya_map, module_paths
from dora_core.layouts import inspect_adapter
from dora_core.spec import NormAxis
from dora_core.state import AdapterState
from tests.adapters import RANK, random_adapter, random_weights, small_modules
from tests.dora_core.dense import dense_weight, relative_error
from tests.dora_core.tiny import Tiny, tiny_sd1

LINEAR = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "unet.down_blocks.1.resnets.0.conv1"
POINTWISE = "unet.down_blocks.1.attentions.0.proj_in"
QUERY = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
SD1, SD2, SDXL = (small_modules(family) for family in ("sd1", "sd2", "sdxl"))


def assert_same_meaning(found: AdapterState, expected: AdapterState, base: Mapping[str, Tensor]) -> None:
    assert found.norm_axis == expected.norm_axis
    assert found.layers.keys() == expected.layers.keys()
    for name, layer in expected.factors.items():
        wanted = dense_weight(base[name], layer, expected.norm_axis)
        error = relative_error(
            dense_weight(base[name], found.factors[name], found.norm_axis), wanted, wanted - base[name]
        )
        assert error < 1e-6, name


# --- by hand: every spelling of names and keys ------------------------------------------------------------------------

KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha", "magnitude": "dora_scale"}
AB = {**KOHYA, "down": "lora_A.weight", "up": "lora_B.weight"}


def kohya_name(modules: ModelModules, name: str) -> str:
    return kohya_map(modules).to_file[name]


def diffusers_kohya_name(modules: ModelModules, name: str) -> str:
    return kohya_map(modules, "diffusers").to_file[name]


def dotted_name(_: ModelModules, name: str) -> str:
    return name


def original_name(modules: ModelModules, name: str) -> str:
    return module_paths(modules, "sgm")[name] if name.startswith("unet.") else name


def comfy_name(modules: ModelModules, name: str) -> str:
    prefixes = {component.name: component.comfy_prefix for component in modules.family.components}
    return f"{prefixes[name.partition('.')[0]]}.{module_paths(modules, 'sgm')[name]}"


def flattened(naming: Callable[[ModelModules, str], str]) -> Callable[[ModelModules, str], str]:
    """As transformers >= 5.6 makes programs name text encoders that take the names from the modules."""
    return lambda modules, name: naming(modules, name).replace("text_model_", "").replace("text_model.", "")


WRITERS: Mapping[str, tuple[Callable[[ModelModules, str], str], dict[str, str]]] = {
    "sd-scripts, LyCORIS, OneTrainer kohya": (kohya_name, KOHYA),
    "the same with diffusers' names; OneTrainer legacy": (diffusers_kohya_name, KOHYA),
    "LyCORIS on transformers 5.6": (flattened(kohya_name), KOHYA),
    "OneTrainer internal": (dotted_name, KOHYA),
    "OneTrainer diffusers, input axis": (dotted_name, AB),
    "OneTrainer original": (original_name, AB),
    "OneTrainer ComfyUI": (comfy_name, AB),
}


@pytest.mark.parametrize("modules", [SD1, SD2, SDXL], ids=["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("naming", "leaves"), WRITERS.values(), ids=WRITERS)
def test_each_writers_names_are_understood(
    tmp_path: Path,
    modules: ModelModules,
    naming: Callable[[ModelModules, str], str],
    leaves: dict[str, str],
) -> None:
    wanted = (".layers.1.mlp.fc2", ".conv_in", "time_embedding.linear_1", "mid_block.attentions.0.proj_in")
    wanted += ("down_blocks.1.resnets.0.conv_shortcut", "up_blocks.1.upsamplers.0.conv", "blocks.1.attn2.to_out.0")
    base = random_weights(modules, [name for name in modules.shapes if name.endswith(wanted)])
    state = random_adapter(base, "input")
    tensors: dict[str, Tensor] = {}
    for name, layer in state.factors.items():
        parts = {"down": layer.down, "up": layer.up, "alpha": torch.tensor(layer.alpha), "magnitude": layer.magnitude}
        tensors |= {
            f"{naming(modules, name)}.{leaves[part]}": value for part, value in parts.items() if value is not None
        }
    save_file(tensors, tmp_path / "foreign.safetensors")
    assert_same_meaning(read_adapter(tmp_path / "foreign.safetensors", modules).state, state, base)


# --- by the programs themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["input", "output"])
@pytest.mark.parametrize("use_tucker", [False, True])
def test_a_file_that_lycoris_saved_means_what_lycoris_merges(tmp_path: Path, axis: NormAxis, use_tucker: bool) -> None:
    tiny = tiny_sd1()
    unet = tiny.components["unet"]
    base = tiny.weights()
    network = create_lycoris(
        unet,
        linear_dim=4,
        linear_alpha=3,
        conv_dim=2,
        conv_alpha=1,
        dora_wd=True,
        wd_on_output=axis == "output",
        use_tucker=use_tucker,
    )
    network.apply_to()
    scramble(network)
    network.save_weights(str(tmp_path / "lycoris.safetensors"), None, {"ss_base_model_version": "sd_v1"})
    found = read_adapter(tmp_path / "lycoris.safetensors", tiny.modules)
    assert found.info.layout == "kohya"
    assert found.state.norm_axis == axis
    network.restore()
    network.merge_to(1.0)
    assert_same_weights(tiny, base, found.state)


def scramble(module: torch.nn.Module) -> None:
    """Numbers that no initialisation has: an update, and magnitudes off their norms."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.mul_(1 + 0.1 * noise) if "dora_scale" in name or "magnitude" in name else parameter.copy_(noise)


def assert_same_weights(tiny: Tiny, base: Mapping[str, Tensor], state: AdapterState) -> None:
    merged = tiny.weights()
    for name, layer in state.factors.items():
        wanted = merged[name]
        assert relative_error(dense_weight(base[name], layer, state.norm_axis), wanted, wanted - base[name]) < 1e-5, (
            name
        )


PEFT_TARGETS = ["to_q", "to_k", "to_out.0", "conv1", "proj_in"]
PEFT_CONFIGS: Mapping[str, dict[str, object]] = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True},
    "ranks and alphas of their own": {
        "rank_pattern": {"conv1": 2, "attn2.to_q": 5},
        "alpha_pattern": {"conv1": 7, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q": 1},
    },
}


def with_peft(model: torch.nn.Module, options: Mapping[str, object]) -> peft.PeftModel:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=PEFT_TARGETS, **options)  # pyright: ignore[reportArgumentType]
    wrapped = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    scramble_lora(wrapped)
    return wrapped


def scramble_lora(wrapped: torch.nn.Module) -> None:
    for name, module in wrapped.named_modules():
        if name.endswith(("lora_A", "lora_B", "lora_magnitude_vector")):
            scramble_named(module, name)


def scramble_named(module: torch.nn.Module, name: str) -> None:
    generator = torch.Generator().manual_seed(len(name))
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.mul_(1 + 0.1 * noise) if name.endswith("vector") else parameter.copy_(noise)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", PEFT_CONFIGS.values(), ids=PEFT_CONFIGS)
def test_a_folder_that_peft_saved_means_what_peft_merges(tmp_path: Path, options: dict[str, object]) -> None:
    tiny = tiny_sd1()
    modules, base = tiny.modules, tiny.weights()
    wrapped = with_peft(tiny.components["unet"], options)
    wrapped.save_pretrained(str(tmp_path))
    found = read_adapter(tmp_path / "adapter_model.safetensors", modules)
    merged = wrapped.merge_and_unload()
    assert_same_weights(Tiny("sd1", {"unet": merged}), base, found.state)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(FileFormatError, match=r"adapter_config\.json"):
        read_adapter(tmp_path / "adapter_model.safetensors", modules)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", PEFT_CONFIGS.values(), ids=PEFT_CONFIGS)
def test_a_file_that_diffusers_saved_means_what_peft_merges(tmp_path: Path, options: dict[str, object]) -> None:
    """With the configuration in its metadata; without, diffusers itself takes alpha for the rank."""
    tiny = tiny_sd1()
    modules, base = tiny.modules, tiny.weights()
    wrapped = with_peft(tiny.components["unet"], options)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers={
            key.removeprefix("base_model.model."): value for key, value in get_peft_model_state_dict(wrapped).items()
        },
        unet_lora_adapter_metadata=wrapped.peft_config["default"].to_dict(),
        weight_name="diffusers.safetensors",
    )
    found = read_adapter(tmp_path / "diffusers.safetensors", modules)
    assert found.info.layout == "peft"
    merged = wrapped.merge_and_unload()
    assert_same_weights(Tiny("sd1", {"unet": merged}), base, found.state)


# --- traps ------------------------------------------------------------------------------------------------------------


def kohya_tensors(modules: ModelModules, axis: NormAxis | None, names: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, layer in random_adapter(random_weights(modules, names), axis).factors.items():
        key = kohya_map(modules).to_file[name]
        tensors |= {f"{key}.lora_down.weight": layer.down, f"{key}.lora_up.weight": layer.up}
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
        if layer.magnitude is not None:
            tensors[f"{key}.dora_scale"] = layer.magnitude
    return tensors


def saved(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(dict(tensors), folder / "foreign.safetensors", metadata)
    return folder / "foreign.safetensors"


def key_of(name: str, leaf: str) -> str:
    return f"{kohya_map(SD1).to_file[name]}.{leaf}"


def test_without_an_alpha_the_scale_is_one(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, None, [LINEAR])
    del tensors[key_of(LINEAR, "alpha")]
    layer = read_adapter(saved(tmp_path, tensors), SD1).state.factors[LINEAR]
    assert layer.alpha == layer.rank == RANK


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_types_are_kept_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {key: value.to(dtype) for key, value in kohya_tensors(SD1, "input", [LINEAR, CONV]).items()}
    for layer in read_adapter(saved(tmp_path, tensors), SD1).state.layers.values():
        assert layer.magnitude is not None
        assert layer.down.dtype == layer.up.dtype == layer.magnitude.dtype == dtype
        assert layer.delta().isfinite().all()


@pytest.mark.parametrize("axis", ["input", "output"])
def test_the_axis_of_square_layers_is_told_by_the_place_of_the_ones(tmp_path: Path, axis: NormAxis) -> None:
    modules = shipped_modules("sd1")
    square = [LINEAR.replace("attn2.to_k", "attn1.to_q"), CONV.replace("conv1", "conv2")]
    assert all(modules.shapes[name][0] == modules.shapes[name][1] for name in square)
    path = saved(tmp_path, kohya_tensors(modules, axis, square))
    assert inspect_adapter(path).norm_axis == axis
    assert read_adapter(path, modules).state.norm_axis == axis


def test_a_one_dimensional_dora_scale_is_refused_with_the_reason(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, "output", [LINEAR, CONV])
    tensors[key_of(LINEAR, "dora_scale")] = tensors[key_of(LINEAR, "dora_scale")].flatten()
    with pytest.raises(
        FileFormatError, match=r"one-dimensional dora_scales: .* nothing tells their norm axis"
    ) as error:
        read_adapter(saved(tmp_path, tensors), SD1)
    assert [entry.split()[0] for entry in error.value.wrong_shape] == [key_of(LINEAR, "dora_scale")]


def test_a_file_of_both_axes_is_refused(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, "output", [LINEAR]) | kohya_tensors(SD1, "input", [CONV])
    with pytest.raises(FileFormatError, match="mixes both norm axes"):
        read_adapter(saved(tmp_path, tensors), SD1)


def test_magnitudes_on_some_layers_only_are_missing_ones(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, "output", [LINEAR]) | kohya_tensors(SD1, None, [CONV])
    with pytest.raises(FileFormatError) as error:
        read_adapter(saved(tmp_path, tensors), SD1)
    assert error.value.missing == (f"{kohya_map(SD1).to_file[CONV]} (magnitude)",)


@pytest.mark.parametrize("leaf", ["lora_magnitude_vector.weight", "lora_magnitude_vector"])
def test_pefts_magnitudes_mean_the_output_axis_also_where_their_shape_says_input(tmp_path: Path, leaf: str) -> None:
    """A convolution's is [1, out, 1, 1]: taken for a dora_scale it would be one of the input axis."""
    modules = shipped_modules("sd1")
    square = CONV.replace("conv1", "conv2")
    layer = random_adapter(random_weights(modules, [square]), "output").layers[square]
    assert layer.magnitude is not None
    tensors = {
        f"{square}.lora_A.weight": layer.down,
        f"{square}.lora_B.weight": layer.up,
        f"{square}.{leaf}": layer.magnitude.reshape(1, -1, 1, 1),
    }
    found = read_adapter(saved(tmp_path, tensors), modules)
    assert (found.info.layout, found.state.norm_axis) == ("peft", "output")
    magnitude = found.state.layers[square].magnitude
    assert magnitude is not None
    assert torch.equal(magnitude, layer.magnitude)


def test_a_linear_layer_stored_as_pointwise_convolution_is_the_same_layer(tmp_path: Path) -> None:
    """Old sd-scripts trained SD2's proj_in as a convolution, though the released model has it linear."""
    base = random_weights(SD2, [POINTWISE])
    state = random_adapter(base, "input")
    tensors = {
        key: value if key.endswith("alpha") else value[..., None, None]
        for key, value in kohya_tensors(SD2, "input", [POINTWISE]).items()
    }
    assert_same_meaning(read_adapter(saved(tmp_path, tensors), SD2).state, state, base)


def test_all_that_is_wrong_with_names_and_shapes_is_listed_and_sorted(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, None, [LINEAR, CONV])
    leaves = ("alpha", "lora_down.weight", "lora_up.weight")
    for leaf in leaves:
        tensors[f"lora_unet_nowhere.{leaf}"] = tensors[key_of(LINEAR, leaf)]
        tensors[f"{LINEAR}.{leaf}"] = tensors[key_of(LINEAR, leaf)].clone()  # a second name of the same module
    tensors[key_of(CONV, "lora_down.weight")] = torch.zeros(RANK, 4, 3, 3)
    with pytest.raises(FileFormatError, match="does not fit Stable Diffusion 1") as error:
        read_adapter(saved(tmp_path, {key: value.clone() for key, value in tensors.items()}), SD1)
    twice = {*error.value.unexpected} - {f"lora_unet_nowhere.{leaf}" for leaf in leaves}
    assert twice in ({key_of(LINEAR, leaf) for leaf in leaves}, {f"{LINEAR}.{leaf}" for leaf in leaves})
    assert list(error.value.unexpected) == sorted(error.value.unexpected)
    assert error.value.wrong_shape[0].startswith(kohya_map(SD1).to_file[CONV])


def test_a_rank_on_which_the_factors_disagree_is_a_wrong_shape(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, None, [LINEAR])
    tensors[key_of(LINEAR, "lora_down.weight")] = torch.zeros(RANK + 1, SD1.shapes[LINEAR][1])
    with pytest.raises(FileFormatError, match="up and down share the rank") as error:
        read_adapter(saved(tmp_path, tensors), SD1)
    assert len(error.value.wrong_shape) == 1


def test_half_a_layer_is_missing_its_other_half(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, None, [LINEAR, CONV])
    del tensors[key_of(CONV, "lora_up.weight")]
    with pytest.raises(FileFormatError) as error:
        read_adapter(saved(tmp_path, tensors), SD1)
    assert error.value.missing == (f"{kohya_map(SD1).to_file[CONV]} (up)",)


NAME = "lora_unet_mid_block_attentions_0_proj_in"
REFUSED: Mapping[str, tuple[dict[str, Tensor], str]] = {
    "LoHa": ({f"{NAME}.{leaf}": torch.zeros(3, 5) for leaf in ("hada_w1_a", "hada_w1_b")}, "holds LoHa"),
    "LoKr": ({f"{NAME}.lokr_w1": torch.zeros(3, 5), f"{NAME}.alpha": torch.tensor(1.0)}, "holds LoKr"),
    "OFT": ({f"{NAME}.oft_blocks": torch.zeros(3, 5, 5)}, "holds OFT"),
    "a checkpoint": ({"model.diffusion_model.out.2.weight": torch.zeros(3, 5)}, "no LoRA or DoRA adapter"),
    "nothing": ({}, "no tensors"),
    "an embedding beside it": (
        {f"{NAME}.lora_down.weight": torch.zeros(3, 5), "bundle_emb.cat.clip_l": torch.zeros(2, 8)},
        "without bundled embeddings",
    ),
    "a bias": (
        {f"{NAME}.lora_down.weight": torch.zeros(3, 5), f"{NAME}.diff_b": torch.zeros(5)},
        "no LoRA or DoRA adapter has",
    ),
    "whole numbers": (
        {f"{NAME}.lora_down.weight": torch.zeros(3, 5, dtype=torch.int8), f"{NAME}.lora_up.weight": torch.zeros(7, 3)},
        "whole numbers in place of weights",
    ),
    "factors of three dimensions": (
        {f"{NAME}.lora_down.weight": torch.zeros(3, 5, 1), f"{NAME}.lora_up.weight": torch.zeros(7, 3, 1)},
        "2 or 4 dimensions",
    ),
}


@pytest.mark.parametrize(("tensors", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_lora_or_dora_is_refused_in_a_sentence(
    tmp_path: Path, tensors: dict[str, Tensor], reason: str
) -> None:
    with pytest.raises(FileFormatError, match=rf"foreign\.safetensors: .*{reason}"):
        read_adapter(saved(tmp_path, tensors), SD1)


def test_an_alpha_may_be_a_whole_number(tmp_path: Path) -> None:
    tensors = kohya_tensors(SD1, None, [LINEAR])
    tensors[key_of(LINEAR, "alpha")] = torch.tensor(2)
    assert read_adapter(saved(tmp_path, tensors), SD1).state.factors[LINEAR].alpha == 2


def test_no_damaged_byte_in_the_header_is_more_than_a_clear_error(tmp_path: Path) -> None:
    whole = saved(tmp_path, kohya_tensors(SD1, "input", [LINEAR]), {"ss_v2": "False"}).read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    refusals: list[str] = []
    for position in range(8 + int.from_bytes(whole[:8], "little")):
        for value in (0, whole[position] ^ 1, whole[position] ^ 128):
            damaged.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                read_adapter(damaged, SD1)
            except FileFormatError as error:
                refusals.append(str(error))
    assert len(refusals) > 1000  # what is left are changes that mean nothing, in metadata and spaces
    assert all("damaged.safetensors" in refusal for refusal in refusals)


def test_factors_and_differences_are_not_taken_for_each_other(tmp_path: Path) -> None:
    difference = saved(tmp_path, {f"{NAME}.diff": torch.ones(SD1.shapes["unet.mid_block.attentions.0.proj_in"])})
    state = read_adapter(difference, SD1).state
    assert state.form == "full"
    assert state.layers["unet.mid_block.attentions.0.proj_in"].delta().eq(1).all()
    assert read_adapter(saved(tmp_path, kohya_tensors(SD1, None, [LINEAR])), SD1).state.form is None


def test_an_adapter_of_unknown_family_asks_for_the_models_modules(tmp_path: Path) -> None:
    path = saved(tmp_path, kohya_tensors(SD1, None, [CONV]))
    with pytest.raises(FileFormatError, match="nothing tells which of sd1, sd2, sdxl"):
        read_adapter(path)
    assert read_adapter(path, SD1).state.layers.keys() == {CONV}


def test_a_broken_configuration_is_an_error_of_its_own(tmp_path: Path) -> None:
    tensors = {f"{LINEAR}.lora_A.weight": torch.ones(RANK, SD1.shapes[LINEAR][1])}
    tensors[f"{LINEAR}.lora_B.weight"] = torch.ones(SD1.shapes[LINEAR][0], RANK)
    with pytest.raises(FileFormatError, match="no JSON object"):
        read_adapter(saved(tmp_path, tensors, {"lora_adapter_metadata": "{"}), SD1)
    config = json.dumps({"unet.lora_alpha": 12, "unet.r": RANK})
    found = read_adapter(saved(tmp_path, copy.copy(tensors), {"lora_adapter_metadata": config}), SD1)
    assert found.state.factors[LINEAR].alpha == 12
