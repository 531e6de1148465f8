"""`dora-studio inspect` says the right thing of every kind of file, ours and others', from its header alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lycoris.modules.loha import LohaModule
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, ModelModules, shipped_modules
from dora_core.files import write_adapter
from dora_core.keymap import kohya_map, module_paths
from dora_core.layouts import NAME_ENDINGS, Layout
from dora_core.metadata import About
from dora_core.spec import NormAxis
from tests.adapters import RANK, random_adapter, random_weights, small_modules
from trainer.base_files import look_up
from trainer.checkpoints import write_state
from trainer.cli_inspect import app
from trainer.inspection import Description, describe

ATTENTION = "unet.down_blocks.1.attentions.0.transformer_blocks.0."
NAMES = [f"{ATTENTION}attn2.to_k", f"{ATTENTION}attn2.to_v", "unet.conv_in"]
TEXT = [f"text_encoder.text_model.encoder.layers.3.self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "out_proj")]


def written(folder: Path, axis: NormAxis | None, layout: Layout = "kohya", family: str = "sd1") -> Path:
    modules = small_modules(family)
    base = random_weights(modules, NAMES + TEXT)
    path = folder / f"panda{NAME_ENDINGS[layout]}"
    about = About(title="Red panda", base_model="small/base", base_model_sha256="ab12", trigger_phrase="rdpnd")
    write_adapter(path, random_adapter(base, axis), modules, layout, about, base)
    return path


def described(folder: Path, axis: NormAxis | None, layout: Layout = "kohya", family: str = "sd1") -> Description:
    return describe(written(folder, axis, layout, family))


def programs(description: Description) -> set[str]:
    assert description.rendering is not None
    return set(description.rendering.exact)


def test_a_file_for_the_starter_is_measured_by_the_starter_not_by_the_released_models(tmp_path: Path) -> None:
    modules = ModelModules(FAMILIES["sd1"], look_up("starter").shapes)
    beyond = [name for name in modules.shapes if name not in shipped_modules("sd1").shapes]
    base = random_weights(modules, [ATTENTION + "attn2.to_k", *beyond[:3]])
    path = tmp_path / "fox.safetensors"
    write_adapter(path, random_adapter(base, "input"), modules, "kohya", About(base_model="starter"), base)
    found = describe(path)
    assert found.facts["layers"] == "4: 4 unet"
    assert found.notes == ()


def test_an_input_axis_file_of_ours(tmp_path: Path) -> None:
    found = described(tmp_path, "input")
    assert found.title == "DoRA, norm over the input axis"
    assert found.facts["family"] == "Stable Diffusion 1.x"
    assert found.facts["rank"] == str(RANK)
    assert found.facts["layers"] == "7: 4 text_encoder, 3 unet"
    assert found.facts["stored as"] == "F16; magnitudes F32"
    assert (found.facts["base model"], found.facts["trigger phrase"]) == ("small/base", "rdpnd")
    assert {"ComfyUI", "A1111 >= 1.10", "InvokeAI"} <= programs(found)
    assert found.rendering is not None
    assert "plain LoRA" in found.rendering.wrong["diffusers"]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("axis", "layout", "title", "renders", "fails"),
    [
        ("output", "kohya", "DoRA, norm over the output axis", "LyCORIS", "ComfyUI"),
        ("output", "kohya-compensated", "DoRA, norm over the output axis", "ComfyUI", "LyCORIS"),
        ("output", "peft", "DoRA, norm over the output axis", "diffusers, PEFT", None),
        (None, "kohya", "LoRA", "diffusers", None),
        (None, "peft", "LoRA", "diffusers, PEFT", None),
        ("input", "diff", "Full difference W' - W0, one per adapted weight", "ComfyUI", None),
    ],
)
def test_every_other_kind_of_ours(
    tmp_path: Path, axis: NormAxis | None, layout: Layout, title: str, renders: str, fails: str | None
) -> None:
    found = described(tmp_path, axis, layout)
    assert found.title == title
    assert renders in programs(found)
    assert found.rendering is not None
    assert (fails in found.rendering.wrong) if fails else not found.rendering.wrong


def rewritten(path: Path, keys: dict[str, str] | None = None, dtype: torch.dtype | None = None) -> Path:
    """The file with other names or in another precision, metadata gone, as other programs write it."""
    tensors = {key: t.to(dtype or t.dtype) for key, t in load_file(path).items()}
    for old, new in (keys or {}).items():
        tensors = {key.replace(f"{old}.", f"{new}."): tensor for key, tensor in tensors.items()}
    save_file(tensors, path, {"ss_base_model_version": "sdxl_base_v1-0"})
    return path


def test_names_that_a_program_does_not_know_are_told(tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    sgm, diffusers = kohya_map(modules).to_file, kohya_map(modules, "diffusers").to_file
    lost = "unet.up_blocks.0.upsamplers.0.conv"
    base = random_weights(modules, [*NAMES, lost])
    path = tmp_path / "panda.safetensors"
    write_adapter(path, random_adapter(base, "input"), modules)
    assert "A1111 >= 1.10" in programs(describe(path))
    found = describe(rewritten(path, {sgm[name]: diffusers[name] for name in base}))
    assert "A1111 >= 1.10" not in programs(found)
    assert found.rendering is not None
    assert found.rendering.wrong["A1111 >= 1.10"].startswith("leaves 1 of 4 layers out")


def test_rounded_magnitudes_are_told(tmp_path: Path) -> None:
    """As LyCORIS saves everything in the precision that its user chose."""
    half = describe(rewritten(written(tmp_path, "input"), dtype=torch.float16))
    assert half.facts["stored as"] == "F16; magnitudes F16"
    assert half.notes[0].startswith("magnitudes are rounded to F16, by up to 0.05 %")
    coarse = describe(rewritten(written(tmp_path, "input"), dtype=torch.bfloat16))
    assert coarse.notes[0].startswith("magnitudes are rounded to BF16, by up to 0.4 %")
    assert coarse.notes[1].startswith("factors are rounded to BF16")


def test_layers_of_no_known_module_are_told(tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    path = written(tmp_path, "input", family="sdxl")
    name = kohya_map(modules).to_file["unet.conv_in"]
    found = describe(rewritten(path, {name: "lora_unet_conv_inwards"}))
    assert found.notes == ("1 layers are in no released model of the family, first lora_unet_conv_inwards",)
    assert "1 unknown" in found.facts["layers"]


def test_a_file_of_no_known_family_says_so(tmp_path: Path) -> None:
    tensors = {"some_layer.lora_up.weight": torch.zeros(6, 2), "some_layer.lora_down.weight": torch.zeros(2, 5)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = describe(tmp_path / "x.safetensors")
    assert (found.title, found.facts["family"], found.facts["layers"]) == ("LoRA", "not recognised", "1")


# --- what is no LoRA or DoRA ------------------------------------------------------------------------------------------


def test_loha_is_called_by_its_name(tmp_path: Path) -> None:
    module = LohaModule("lora_unet_conv_in", nn.Linear(9, 5), lora_dim=2)
    save_file(
        {f"lora_unet_conv_in.{k}": v.contiguous() for k, v in module.state_dict().items()}, tmp_path / "x.safetensors"
    )
    with pytest.raises(FileFormatError, match="holds LoHa"):
        describe(tmp_path / "x.safetensors")


def test_a_flat_dora_scale_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = written(tmp_path, "input")
    flat = {key: t.flatten() if key.endswith("dora_scale") else t for key, t in load_file(path).items()}
    save_file(flat, path)
    with pytest.raises(FileFormatError, match="nothing tells their norm axis"):
        describe(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(FileFormatError, match="pickle"):
        describe(tmp_path / "x.pt")


def test_models_are_told_from_adapters(tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    unet = {
        f"{path}.weight": torch.zeros(modules.shapes[name])
        for name, path in module_paths(modules, "sgm").items()
        if name.startswith("unet.")
    }
    checkpoint = {f"model.diffusion_model.{key}": t for key, t in unet.items()}
    checkpoint["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(13, 4, 3, 3)  # as many as a latent has
    save_file(checkpoint, tmp_path / "model.safetensors")
    with pytest.raises(FileFormatError, match=r"holds no text_encoder: give the whole checkpoint"):
        describe(tmp_path / "model.safetensors")
    others = {f"conditioner.embedders.{number}.anything": torch.zeros(1) for number in (0, 1)}
    save_file(checkpoint | others, tmp_path / "model.safetensors")
    found = describe(tmp_path / "model.safetensors")
    assert found.title == "Base model of Stable Diffusion XL"
    assert found.facts["modules to adapt"] == "794"  # of the UNet; the text encoders here have none
    assert found.rendering is None
    plain = {
        f"{name.removeprefix('unet.')}.weight": torch.zeros(shape)
        for name, shape in modules.shapes.items()
        if name.startswith("unet.")
    }
    plain["conv_in.weight"] = torch.zeros(13, 4, 3, 3)
    (tmp_path / "folder" / "unet").mkdir(parents=True)
    save_file(plain, tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert describe(tmp_path / "folder").title == "Base model of Stable Diffusion XL"
    alone = describe(tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert alone.title == "UNet of Stable Diffusion XL, without the rest"


def test_a_checkpoint_of_a_run_is_told_from_an_adapter_file(tmp_path: Path) -> None:
    state = random_adapter(random_weights(small_modules("sd1"), NAMES), "input")
    write_state(tmp_path / "adapter.safetensors", state)
    found = describe(tmp_path / "adapter.safetensors")
    assert "no other program reads" in found.title
    assert found.facts["layers"] == "3"
    assert "dora-studio export" in found.notes[0]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = written(tmp_path, "output")
    report = {"headline": "LyCORIS renders all 7 layers"}
    tensors = load_file(path)
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "dora_studio.parity": json.dumps(report)})
    shown = CliRunner().invoke(app, [str(path)])
    assert shown.exit_code == 0
    for text in (
        "DoRA, norm over the output axis",
        "Stable Diffusion 1.x",
        "as trained  LyCORIS",
        "not so      ComfyUI",
    ):
        assert text in shown.output
    assert "LyCORIS renders all 7 layers" in shown.output


def test_the_command_ends_with_1_and_a_sentence_where_the_file_is_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 20)
    shown = CliRunner().invoke(app, [str(tmp_path / "x.safetensors")])
    assert shown.exit_code == 1
    assert "Traceback" not in shown.output
