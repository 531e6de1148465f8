"""The check of a file says what each program makes of it, and fails where the program that it is for gets it wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dora_core.errors import FileFormatError
from dora_core.families import ModelModules
from dora_core.files import write_adapter
from dora_core.keymap import kohya_map
from dora_core.layouts import NAME_ENDINGS, Layout
from dora_core.parity import check_parity, intended_by_file, intended_by_state, read_stored
from dora_core.parity_report import ParityReport, number, share
from dora_core.rendering import WHERE, rendering
from dora_core.spec import NormAxis
from dora_core.state import AdapterState
from tests.adapters import random_adapter, random_weights, small_modules

UNET = "unet.down_blocks.1.attentions.0.transformer_blocks.0."
SD1 = [
    *(f"{UNET}attn2.{projection}" for projection in ("to_q", "to_k", "to_v", "to_out.0")),
    "unet.down_blocks.1.resnets.0.conv1",
    "unet.conv_in",
    *(f"text_encoder.text_model.encoder.layers.3.self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "out_proj")),
]
SDXL = [
    *(f"{UNET}attn1.{projection}" for projection in ("to_q", "to_k", "to_v", "to_out.0")),
    "unet.add_embedding.linear_1",
    "unet.up_blocks.0.upsamplers.0.conv",
    *(f"text_encoder_2.text_model.encoder.layers.3.self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "out_proj")),
]


def written(
    folder: Path, state: AdapterState, base: dict[str, Tensor], modules: ModelModules, layout: Layout = "kohya"
) -> Path:
    path = folder / f"adapter{NAME_ENDINGS[layout]}"
    write_adapter(path, state, modules, layout, base=base)
    return path


def checked(path: Path, state: AdapterState, base: dict[str, Tensor], modules: ModelModules) -> ParityReport:
    return check_parity(read_stored(path, modules), base, intended_by_state(state), expected=state.layers)


def report_of(
    folder: Path, axis: NormAxis | None, layout: Layout = "kohya", family: str = "sd1", size: float = 0.05
) -> ParityReport:
    modules = small_modules(family)
    base = random_weights(modules, SD1 if family == "sd1" else SDXL)
    state = random_adapter(base, axis, size)
    return checked(written(folder, state, base, modules, layout), state, base, modules)


def verdicts(report: ParityReport) -> dict[str, str]:
    return {parity.consumer.key: parity.verdict for parity in report.consumers if not parity.consumer.is_half}


INTERFACES = {"comfyui", "forge", "a1111", "sdnext", "invokeai"}


def test_an_input_axis_file_is_proven_for_every_user_interface(tmp_path: Path) -> None:
    report = report_of(tmp_path, "input")
    assert report.passed
    assert report.recommended == "comfyui"
    exact = {key for key, verdict in verdicts(report).items() if verdict == "exact"}
    assert exact == INTERFACES | {"lycoris"}
    assert verdicts(report)["diffusers"] == "unread"
    assert verdicts(report)["diffusers-kohya"] == verdicts(report)["sdcpp"] == verdicts(report)["plain"] == "wrong"
    assert 1e-5 < report.target.worst.worst < 1e-3  # the factors are stored in float16
    assert all(parity.modules == len(SD1) and not parity.unresolved for parity in report.consumers)


def test_an_output_axis_file_is_proven_for_lycoris_and_its_errors_elsewhere_are_told(tmp_path: Path) -> None:
    report = report_of(tmp_path, "output")
    assert report.passed
    assert report.recommended == "lycoris"
    assert {key for key, verdict in verdicts(report).items() if verdict == "exact"} == {"lycoris", "sdnext"}
    parities = {parity.consumer.key: parity for parity in report.consumers}
    assert 0.03 < parities["comfyui"].worst.worst < 0.5
    assert parities["a1111"].worst.worst > 2
    assert "times" in parities["a1111"].words


def test_a_compensated_file_is_right_in_comfyui_and_wrong_elsewhere(tmp_path: Path) -> None:
    report = report_of(tmp_path, "output", "kohya-compensated")
    assert report.passed
    assert {key for key, verdict in verdicts(report).items() if verdict == "exact"} == {"comfyui", "forge"}
    assert any("15458" in note for note in report.not_certified)


def test_a_file_in_pefts_layout_is_proven_for_diffusers_at_full_strength_only(tmp_path: Path) -> None:
    report = report_of(tmp_path, "output", "peft")
    assert report.passed
    assert report.recommended == "diffusers"
    assert {key for key, verdict in verdicts(report).items() if verdict != "unread"} == {"diffusers"}
    assert report.target.only_full_strength
    half = next(strength for strength in report.target.strengths if strength.strength == 0.5)
    assert half.worst > 0.05
    assert half not in report.target.compared


@pytest.mark.parametrize("axis", ["input", "output", None])
def test_a_full_difference_is_right_wherever_it_is_read(tmp_path: Path, axis: NormAxis | None) -> None:
    report = report_of(tmp_path, axis, "diff")
    assert report.passed
    read = {key for key, verdict in verdicts(report).items() if verdict == "exact"}
    assert read == INTERFACES | {"sdcpp"}
    assert "wrong" not in verdicts(report).values()


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_a_plain_lora_is_right_everywhere_at_every_strength(tmp_path: Path, layout: Layout) -> None:
    report = report_of(tmp_path, None, layout)
    assert report.passed
    assert set(verdicts(report).values()) == {"exact", "unread"}
    assert all(len(parity.compared) == 2 for parity in report.consumers if parity.strengths)


@pytest.mark.parametrize(("layout", "axis"), WHERE)
def test_what_is_said_of_a_kind_of_file_is_what_the_formulas_give(
    tmp_path: Path, layout: Layout, axis: NormAxis | None
) -> None:
    report = report_of(tmp_path, axis, layout)
    said = rendering(layout, axis)
    rows = [parity for parity in report.consumers if not parity.consumer.is_half]
    assert set(said.exact) == {parity.consumer.program for parity in rows if parity.verdict == "exact"}
    assert set(said.wrong) == {parity.consumer.program for parity in rows if parity.verdict == "wrong"}


def test_half_precision_is_judged_against_what_rounding_costs_anyway(tmp_path: Path) -> None:
    parities = {parity.consumer.key: parity for parity in report_of(tmp_path, "input").consumers}
    assert parities["forge-fp16"].verdict == "close"
    assert parities["forge-fp16"].rounding > 0
    # norms of about 1: an eps of 1e-3 on each is a fortieth of an update of 5 %
    assert parities["comfyui-fp16"].median > 3 * parities["forge-fp16"].median
    assert "rounding alone" in parities["forge-fp16"].words


def test_one_damaged_layer_fails_the_gate_and_is_named(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, "input")
    path = written(tmp_path, state, base, modules)
    tensors = load_file(path)
    tensors["lora_unet_conv_in.lora_up.weight"] *= 1.01
    save_file(tensors, path)
    report = checked(path, state, base, modules)
    assert not report.passed
    assert report.target.worst.worst_layer == "unet.conv_in"
    assert "unet.conv_in" in report.headline
    assert report.headline.startswith("Not proven")


def test_a_layer_that_the_file_lacks_fails_the_gate(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, "input")
    fewer = AdapterState({name: layer for name, layer in state.layers.items() if name != "unet.conv_in"}, "input")
    report = checked(written(tmp_path, fewer, base, modules), state, base, modules)
    assert report.missing == ("unet.conv_in",)
    assert not report.passed


def test_the_smallest_updates_are_measured_against_the_base_weight(tmp_path: Path) -> None:
    """An update below the float32 resolution of the weight cannot be kept to 1e-3 of itself; 1e-6 of the weight can."""
    report = report_of(tmp_path, "input", size=1e-9)
    assert report.passed
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    untouched = random_adapter(base, "input", size=0.0, drift=0.0)
    assert checked(written(tmp_path, untouched, base, modules), untouched, base, modules).passed


@pytest.mark.parametrize(("axis", "layout"), [("output", "kohya-compensated"), ("input", "kohya"), ("input", "diff")])
def test_without_a_state_the_file_is_checked_against_its_own_meaning(
    tmp_path: Path, axis: NormAxis, layout: Layout
) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, axis)
    stored = read_stored(written(tmp_path, state, base, modules, layout), modules)
    by_file, by_state = intended_by_file(stored), intended_by_state(state)
    for name, weight in base.items():
        update = by_state(name, weight.double()) - weight
        assert float((by_file(name, weight.double()) - weight - update).norm() / update.norm()) < 1e-3
    assert check_parity(stored, base, by_file).passed


def test_a_column_without_length_is_not_a_number_in_programs_that_divide_by_its_norm(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    base["unet.conv_in"][:, 1] = 0
    state = random_adapter(base, "input")
    layer = state.factors["unet.conv_in"]
    silent = layer.down.clone()
    silent[:, 1] = 0
    state = AdapterState({**state.layers, "unet.conv_in": replace(layer, down=silent)}, "input")
    report = checked(written(tmp_path, state, base, modules), state, base, modules)
    assert report.passed  # ComfyUI adds an eps
    parities = {parity.consumer.key: parity for parity in report.consumers}
    assert parities["a1111"].verdict == "wrong"
    assert parities["a1111"].words.endswith("worst not a number")
    json.loads(report.to_json("x", "0"))


def renamed(path: Path, names: dict[str, str]) -> None:
    tensors = load_file(path)
    for old, new in names.items():
        tensors = {key.replace(f"{old}.", f"{new}."): tensor for key, tensor in tensors.items()}
    save_file(tensors, path)


def unresolved(report: ParityReport) -> dict[str, int]:
    return {parity.consumer.key: len(parity.unresolved) for parity in report.consumers if parity.unresolved}


def test_sdxl_in_diffusers_names_loses_modules_in_a1111_and_diffusers(tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    base = random_weights(modules, SDXL)
    state = random_adapter(base, "input")
    path = written(tmp_path, state, base, modules)
    assert unresolved(checked(path, state, base, modules)) == {}  # in SGM names, as we write them, nothing is lost
    sgm, diffusers = kohya_map(modules, "sgm").to_file, kohya_map(modules, "diffusers").to_file
    renamed(path, {sgm[name]: diffusers[name] for name in SDXL})
    report = checked(path, state, base, modules)
    assert report.passed
    assert unresolved(report) == {"a1111": 2, "a1111-fp16": 2, "diffusers-kohya": 1}
    a1111 = next(parity for parity in report.consumers if parity.consumer.key == "a1111")
    assert a1111.verdict == "wrong"
    assert a1111.words.startswith("finds 8 of 10 layers")
    assert a1111.worst.worst == pytest.approx(1, abs=1e-6)  # such a layer stays as it was


def test_a_file_of_mixed_namings_is_refused_by_invokeai(tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    base = random_weights(modules, SDXL)
    state = random_adapter(base, "input")
    path = written(tmp_path, state, base, modules)
    sgm, diffusers = kohya_map(modules, "sgm").to_file, kohya_map(modules, "diffusers").to_file
    renamed(path, {sgm[SDXL[0]]: diffusers[SDXL[0]]})
    assert unresolved(checked(path, state, base, modules)) == {"invokeai": len(SDXL)}


def test_text_encoder_names_without_text_model_are_known_to_diffusers_only(tmp_path: Path) -> None:
    """As trainers write them who take the names from transformers 5.6. Forge refuses the file over so many keys."""
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, "input")
    path = written(tmp_path, state, base, modules)
    names = [name for name in kohya_map(modules).to_file.values() if name.startswith("lora_te_")]
    renamed(path, {name: name.replace("text_model_", "") for name in names})
    report = checked(path, state, base, modules)
    assert not report.passed
    lost = unresolved(report)
    assert lost["comfyui"] == lost["a1111"] == lost["invokeai"] == 4
    assert lost["forge"] == len(SD1)
    assert not {"sdnext", "diffusers-kohya"} & lost.keys()


def test_a1111_skips_openclip_attention_that_is_not_whole(tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    base = random_weights(modules, SDXL)
    state = random_adapter(base, "input")
    path = written(tmp_path, state, base, modules)
    te2 = "lora_te2_text_model_encoder_layers_3_self_attn_v_proj"
    save_file({key: tensor for key, tensor in load_file(path).items() if not key.startswith(te2)}, path)
    assert unresolved(checked(path, state, base, modules)) == {"a1111": 3, "a1111-fp16": 3}


def test_the_report_is_json_with_words_for_people(tmp_path: Path) -> None:
    report = report_of(tmp_path, "input")
    content = json.loads(report.to_json("adapter.safetensors", "abc"))
    assert content["passed"] is True
    assert content["headline"] == report.headline
    assert content["sha256"] == "abc"
    assert set(content["layers"]) == set(SD1)
    comfyui = content["consumers"][0]
    assert (comfyui["key"], comfyui["matched"], comfyui["modules"]) == ("comfyui", len(SD1), len(SD1))
    assert [entry["strength"] for entry in comfyui["strengths"]] == [1.0, 0.5]
    assert report.headline.startswith(f"ComfyUI renders all {len(SD1)} layers as trained, worst error 0.0")
    assert "Likewise Forge, reForge; A1111 >= 1.10; SD.Next; InvokeAI; LyCORIS." in report.headline
    assert "Not so diffusers; stable-diffusion.cpp" in report.headline


def test_errors_are_told_as_shares_of_the_update() -> None:
    assert [share(e) for e in (0.0, 1e-7, 2.94e-4, 0.163, 1.54, 23.2)] == [
        "0 %", "below 0.001 %", "0.029 %", "16 %", "154 %", "23 times",
    ]  # fmt: skip
    assert (share(float("inf")), number(float("inf")), number(0.123456)) == ("not a number", None, 0.123)


def test_a_base_model_that_lacks_an_adapted_layer_is_refused(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, "input")
    stored = read_stored(written(tmp_path, state, base, modules), modules)
    with pytest.raises(FileFormatError, match="lacks") as caught:
        check_parity(stored, {name: w for name, w in base.items() if name != "unet.conv_in"}, intended_by_state(state))
    assert caught.value.missing == ("unet.conv_in",)


class _Watched(dict[str, Tensor]):
    """Base weights that note with which precision of products they are asked for."""

    def __getitem__(self, name: str) -> Tensor:
        self.precisions = getattr(self, "precisions", set[str]()) | {torch.get_float32_matmul_precision()}
        return super().__getitem__(name)


def test_the_check_multiplies_in_full_float32_whatever_the_program_allows(tmp_path: Path) -> None:
    """TF32 keeps ten bits: with it every file would fail the gate on a card."""
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, "input")
    stored = read_stored(written(tmp_path, state, base, modules), modules)
    watched = _Watched(base)
    torch.set_float32_matmul_precision("medium")
    try:
        assert check_parity(stored, watched, intended_by_state(state)).passed
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert watched.precisions == {"highest"}


def test_the_arithmetic_is_done_where_it_is_asked_to_be_done(tmp_path: Path) -> None:
    """On the meta device there are no numbers, so a check there can only end in the attempt to read one."""
    modules = small_modules("sd1")
    base = random_weights(modules, SD1)
    state = random_adapter(base, "input")
    stored = read_stored(written(tmp_path, state, base, modules), modules)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        check_parity(stored, base, intended_by_file(stored), device=torch.device("meta"))
