"""The commands export, verify and analyze, and what a ComfyUI at hand is asked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from dora_core.analysis import analyze_adaptation
from dora_core.files import read_adapter, write_adapter
from dora_core.header import read_header
from dora_core.spec import NormAxis
from dora_core.state import AdapterState
from tests.adapters import random_adapter
from tests.pipelines import tiny_sd1_pipeline
from trainer import cli_analyze, cli_export, cli_verify
from trainer.base_weights import BaseModel, open_base
from trainer.comfyui import ComfyUIError, ask_comfyui

ATTENTION = [f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.{p}" for p in ("to_q", "to_k", "to_v")]
QUERY = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("model")
    tiny_sd1_pipeline(folder / "vocabulary").save_pretrained(folder / "model")
    return open_base(folder / "model")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write where they are called; nothing of the user's is looked at; lines are not broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DORA_STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")


def adapter(base: BaseModel, axis: NormAxis | None) -> tuple[str, AdapterState]:
    state = random_adapter({name: base.weights[name] for name in [*ATTENTION, QUERY]}, axis)
    write_adapter("panda.safetensors", state, base.modules, base=base.weights, precision="full")
    return "panda.safetensors", state


def run(app: object, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)  # type: ignore[arg-type]


def test_export_writes_the_file_and_says_what_every_program_makes_of_it(base: BaseModel) -> None:
    file, _ = adapter(base, "input")
    done = run(cli_export.app, file, "--base", str(base.path), "--out", "out/new.safetensors")
    assert done.exit_code == 0, done.output
    assert "ComfyUI renders all 7 layers as trained" in done.output  # the block's other projections were added
    assert "3 text-encoder projections without effect" not in done.output  # as the source file had them already
    metadata = read_header("out/new.safetensors").metadata
    assert metadata["dora_studio.base_model_sha256"] == base.sha256
    assert Path("out/new.parity.json").is_file()
    again = run(cli_verify.app, "out/new.safetensors")  # which names its base model
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("axis", "target", "name"),
    [
        ("output", None, "panda.safetensors"),
        ("output", "comfyui-compensated", "panda-comfyui-compensated.safetensors"),
        ("output", "diffusers", "panda-diffusers.safetensors"),
        (None, "diff", "panda-full-difference.safetensors"),
    ],
)
def test_export_has_a_file_for_every_target(
    base: BaseModel, axis: NormAxis | None, target: str | None, name: str
) -> None:
    file, _ = adapter(base, axis)
    Path("exports").mkdir()
    os.chdir("exports")
    done = run(cli_export.app, f"../{file}", "--base", str(base.path), *(["--target", target] if target else []))
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path().iterdir()} == {name, name.replace(".safetensors", ".parity.json")}


def test_export_of_a_whole_model(base: BaseModel) -> None:
    file, _ = adapter(base, "input")
    done = run(cli_export.app, file, "--base", str(base.path), "--target", "merged", "--out", "whole")
    assert done.exit_code == 0, done.output
    assert open_base("whole").weights.keys() == base.weights.keys()


def test_export_says_what_to_do_where_it_cannot(base: BaseModel) -> None:
    file, _ = adapter(base, "output")
    done = run(cli_export.app, file, "--base", str(base.path), "--target", "comfyui")
    assert done.exit_code == 1
    assert "cannot hold a DoRA on the output axis" in done.output
    assert "comfyui-compensated" in done.output
    nameless = run(cli_export.app, file)
    assert nameless.exit_code == 1
    assert "--base" in nameless.output


def test_a_compensated_file_is_no_source(base: BaseModel) -> None:
    """Its magnitudes are not what was trained."""
    file, _ = adapter(base, "output")
    run(cli_export.app, file, "--base", str(base.path), "--target", "comfyui-compensated")
    done = run(cli_export.app, "panda-comfyui-compensated.safetensors", "--base", str(base.path), "--target", "diff")
    assert done.exit_code == 1
    assert "changed for ComfyUI alone" in done.output


def test_verify_ends_with_1_where_a_file_is_wrong_in_its_own_program(base: BaseModel) -> None:
    """Text-encoder names without text_model: ComfyUI leaves these layers out without a word."""
    file, _ = adapter(base, "input")
    tensors = {key.replace("text_model_", ""): tensor for key, tensor in load_file(file).items()}
    save_file(tensors, file)
    done = run(cli_verify.app, file, "--base", str(base.path), "--json", "report.json")
    assert done.exit_code == 1
    assert "finds 3 of 7 layers" in done.output
    report = json.loads(Path("report.json").read_text())
    assert report["passed"] is False
    assert report["consumers"][0]["matched"] == 3


def test_analyze_prints_the_numbers_of_the_library(base: BaseModel) -> None:
    file, state = adapter(base, "input")
    done = run(cli_analyze.app, file, "--base", str(base.path), "--json", "numbers.json")
    assert done.exit_code == 0, done.output
    expected = analyze_adaptation(base.weights, read_adapter(file, base.modules).state)
    assert expected.table().splitlines()[1].rstrip() in done.output
    numbers = json.loads(Path("numbers.json").read_text())
    assert numbers["drift"] == pytest.approx(expected.drift)
    assert len(numbers["layers"]) == 7
    moved = {layer["name"] for layer in numbers["layers"] if layer["update_norm"] > 1e-6}
    assert moved == set(state.layers)


def test_analyze_compares_whole_models(base: BaseModel) -> None:
    file, _ = adapter(base, "input")
    run(cli_export.app, file, "--base", str(base.path), "--target", "merged", "--out", "whole")
    done = run(cli_analyze.app, "whole", "--base", str(base.path), "--json", "dense.json")
    assert done.exit_code == 0, done.output
    run(cli_analyze.app, file, "--base", str(base.path), "--json", "factors.json")
    dense, factors = (json.loads(Path(name).read_text()) for name in ("dense.json", "factors.json"))
    assert dense["update_norm"] == pytest.approx(factors["update_norm"], rel=1e-5)
    assert len(dense["layers"]) == len(base.weights)
    drifts = {layer["name"]: layer["drift"] for layer in dense["layers"]}
    for layer in factors["layers"]:
        assert drifts[layer["name"]] == pytest.approx(layer["drift"], rel=1e-3, abs=1e-12)


def test_a_folder_that_is_no_comfyui_is_refused(base: BaseModel, tmp_path: Path) -> None:
    file, _ = adapter(base, "input")
    with pytest.raises(ComfyUIError, match=r"no comfy/lora\.py"):
        ask_comfyui(tmp_path, Path(file), base.path)


def test_a_comfyui_that_does_not_start_is_told_with_what_it_said(base: BaseModel, tmp_path: Path) -> None:
    file, _ = adapter(base, "input")
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "lora.py").write_text("")
    (tmp_path / "comfy" / "cli_args.py").write_text("raise RuntimeError('no such card')")
    done = run(cli_verify.app, file, "--base", str(base.path), "--comfyui", str(tmp_path))
    assert done.exit_code == 1
    assert "no such card" in done.output
    assert "--python" in done.output


@pytest.mark.skipif("DORA_STUDIO_COMFYUI" not in os.environ, reason="DORA_STUDIO_COMFYUI names no ComfyUI folder")
@pytest.mark.parametrize(("axis", "is_exact"), [("input", True), ("output", False), (None, True)])
def test_comfyuis_own_code_does_what_our_formula_of_it_says(
    base: BaseModel, axis: NormAxis | None, is_exact: bool
) -> None:
    file, _ = adapter(base, axis)
    python = os.environ.get("DORA_STUDIO_COMFYUI_PYTHON")
    folder = os.environ["DORA_STUDIO_COMFYUI"]
    done = run(
        cli_verify.app, file, "--base", str(base.path), "--comfyui", folder, *(["--python", python] if python else [])
    )
    assert done.exit_code == 0, done.output
    assert "7 of 7 layers found" in done.output
    assert "computes something else" not in done.output
    answer = ask_comfyui(Path(folder), Path(file), base.path, Path(python) if python else None)
    assert (answer.worst < 1e-3) == is_exact
