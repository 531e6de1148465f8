"""An exported file is proven before it is published, and the programs that can be installed agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from dora_core.algebra import squared_norm
from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, ModelModules
from dora_core.files import read_adapter
from dora_core.formats import adapted_weight
from dora_core.header import read_header
from dora_core.metadata import About
from dora_core.spec import Form, NormAxis
from dora_core.state import AdapterState, FullWeights, LayerWeights
from tests.adapters import RANK, random_adapter, random_weights, small_modules
from tests.pipelines import latents_of, tiny_sd1_pipeline
from trainer.base_weights import BaseModel, open_base
from trainer.export import TARGETS, UnprovenError, WrongTargetError, check_target, export_adapter, report_path
from trainer.merged_pipeline import FolderInUseError, export_merged

NAMES = ["unet.conv_in", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]


def exported(folder: Path, form: Form, target: str, modules: ModelModules | None = None) -> tuple[Path, AdapterState]:
    modules = modules or small_modules("sd1")
    base = random_weights(modules, NAMES)
    state = full_adapter(base) if form == "full" else random_adapter(base, form)
    row = TARGETS[target]
    return export_adapter(state, base, modules, row, folder / f"panda{row.ending}").path, state


def full_adapter(base: Mapping[str, Tensor]) -> AdapterState:
    """Each difference has every rank that its layer can have."""
    generator = torch.Generator().manual_seed(4)
    return AdapterState({n: FullWeights(0.01 * torch.randn(w.shape, generator=generator)) for n, w in base.items()})


def test_the_file_comes_with_its_report_and_carries_its_headline(tmp_path: Path) -> None:
    path, _ = exported(tmp_path, "input", "comfyui")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["panda.parity.json", "panda.safetensors"]
    report = json.loads(report_path(path).read_text())
    assert report["passed"] is True
    assert report["file"] == "panda.safetensors"
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    metadata = read_header(path).metadata
    assert metadata["dora_studio.parity"] == report["headline"]
    assert report["headline"].startswith("ComfyUI renders all 2 layers as trained")
    assert metadata["ss_output_name"] == "panda"


@pytest.mark.parametrize(
    ("form", "target"), [(form, target.name) for target in TARGETS.values() for form in sorted(target.forms, key=str)]
)
def test_every_target_is_proven_for_every_kind_of_adapter_that_it_takes(
    tmp_path: Path, form: Form, target: str
) -> None:
    path, _ = exported(tmp_path, form, target)
    report = json.loads(report_path(path).read_text())
    assert report["passed"] is True
    assert report["recommended"] == TARGETS[target].consumer
    assert report["layout"] == TARGETS[target].layout


def test_a_target_that_cannot_hold_the_adapter_names_those_that_can(tmp_path: Path) -> None:
    with pytest.raises(WrongTargetError, match=r"DoRA on the output axis\. Choose one of these: comfyui-compensated"):
        exported(tmp_path, "output", "comfyui")
    with pytest.raises(WrongTargetError, match="cannot hold a DoRA on the input axis"):
        check_target(AdapterState({}, "input"), TARGETS["diffusers"])
    with pytest.raises(WrongTargetError, match="cannot hold a plain LoRA"):
        check_target(AdapterState({}), TARGETS["comfyui-compensated"])
    with pytest.raises(WrongTargetError, match="cannot hold a full difference"):
        exported(tmp_path, "full", "comfyui")
    assert list(tmp_path.iterdir()) == []


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    first, _ = exported(tmp_path / "a", "input", "comfyui")
    second, _ = exported(tmp_path / "b", "input", "comfyui")
    assert first.read_bytes() == second.read_bytes()
    assert report_path(first).read_bytes() == report_path(second).read_bytes()


def test_a_failed_gate_leaves_nothing_behind(tmp_path: Path) -> None:
    """ComfyUI takes a magnitude of shape (1, in) for the output axis where the layer has one output: it cannot pass."""
    modules = ModelModules(FAMILIES["sd1"], {"unet.conv_in": (1, 9, 3, 3), NAMES[1]: (6, 9)})
    with pytest.raises(
        UnprovenError, match=r"Not proven: ComfyUI, .* \(layer unet.conv_in\)\. No file was written"
    ) as caught:
        exported(tmp_path, "input", "comfyui", modules)
    assert list(tmp_path.iterdir()) == []
    errors = {layer.name: layer.errors["comfyui", 1.0] for layer in caught.value.report.layers}
    assert errors[NAMES[1]] < 1e-3 < errors["unet.conv_in"]


def test_a_failed_gate_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "panda.safetensors"
    path.write_bytes(b"earlier")
    modules = ModelModules(FAMILIES["sd1"], {"unet.conv_in": (1, 9, 3, 3), NAMES[1]: (6, 9)})
    with pytest.raises(UnprovenError):
        exported(tmp_path, "input", "comfyui", modules)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_factors_stay_in_float32_where_float16_would_fail_the_gate(tmp_path: Path) -> None:
    """D = W0 doubles a weight of low rank, the magnitude halves it again: what remains is small beside D's rounding."""
    generator = torch.Generator().manual_seed(2)
    up, down = torch.randn(7, RANK, generator=generator), torch.randn(RANK, 9, generator=generator)
    weight = up @ down
    norm = squared_norm(weight, "input").sqrt().reshape(1, 9)
    magnitude = norm * (1 + 1e-3 * torch.randn(1, 9, generator=generator))
    state = AdapterState({NAMES[1]: LayerWeights(down, up, RANK, magnitude)}, "input")
    modules = ModelModules(FAMILIES["sd1"], {NAMES[1]: (7, 9)})
    outcome = export_adapter(state, {NAMES[1]: weight}, modules, TARGETS["comfyui"], tmp_path / "panda.safetensors")
    assert outcome.precision == "full"
    assert outcome.report.passed
    stored = {key: tensor.dtype for key, tensor in load_file(outcome.path).items()}
    assert set(stored.values()) == {torch.float32}


def test_what_was_exported_reads_back_as_what_was_trained(tmp_path: Path) -> None:
    path, state = exported(tmp_path, "input", "comfyui")
    base = random_weights(small_modules("sd1"), NAMES)
    read = read_adapter(path, small_modules("sd1")).state
    for name, layer in state.layers.items():
        wanted, found = (adapted_weight(base[name].double(), x, "input") for x in (layer, read.layers[name]))
        assert float((found - wanted).norm() / (wanted - base[name]).norm()) < 1e-3


# --- in diffusers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("model")
    tiny_sd1_pipeline(folder / "vocabulary").save_pretrained(folder / "model")
    return open_base(folder / "model")


def pipeline_from(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def everywhere(model: BaseModel, axis: NormAxis | None) -> AdapterState:
    """On every linear and convolution of the UNet and the text encoder."""
    return random_adapter(dict(model.weights), axis, size=0.3, drift=0.1)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("axis", ["output", None])
def test_diffusers_draws_the_same_latents_from_the_exported_file_as_from_the_merged_model(
    tmp_path: Path, model: BaseModel, axis: NormAxis | None
) -> None:
    """Within 1e-3 of the latents, as the file's factors are float16; the adapter moves them by more than a tenth."""
    state = everywhere(model, axis)
    target = TARGETS["diffusers"]
    file = export_adapter(state, model.weights, model.modules, target, tmp_path / f"panda{target.ending}").path
    merged = latents_of(pipeline_from(export_merged(state, model, tmp_path / "merged")))
    pipeline = pipeline_from(model.path)
    before = latents_of(pipeline)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    drawn = latents_of(pipeline)
    assert apart(before, merged) > 0.1
    assert apart(drawn, merged) < 1e-3


def test_diffusers_drops_the_magnitudes_of_a_kohya_file(tmp_path: Path, model: BaseModel) -> None:
    """What the report says of such a file is what happens: the latents are those of the plain LoRA."""
    state = everywhere(model, "input")
    file = export_adapter(state, model.weights, model.modules, TARGETS["comfyui"], tmp_path / "panda.safetensors").path
    lora = AdapterState({n: LayerWeights(x.down, x.up, x.alpha) for n, x in state.factors.items()})
    pipeline = pipeline_from(model.path)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    drawn = latents_of(pipeline)
    assert apart(drawn, latents_of(pipeline_from(export_merged(lora, model, tmp_path / "lora")))) < 1e-3
    assert apart(drawn, latents_of(pipeline_from(export_merged(state, model, tmp_path / "dora")))) > 1e-2


# --- merged -----------------------------------------------------------------------------------------------------------


def test_a_merged_folder_has_every_adapted_weight_rounded_once_and_all_else_unchanged(
    tmp_path: Path, model: BaseModel
) -> None:
    state = random_adapter({name: model.weights[name] for name in ("unet.conv_in", "unet.conv_out")}, "input")
    merged = open_base(export_merged(state, model, tmp_path / "merged"))
    for name, weight in model.weights.items():
        expected = weight
        if name in state.layers:
            expected = adapted_weight(weight.double(), state.layers[name], "input").float()
            assert not torch.equal(expected, weight)
        assert torch.equal(merged.weights[name], expected)
    files = {path.relative_to(model.path) for path in model.path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(merged.path) for path in merged.path.rglob("*") if path.is_file()}


def test_a_merged_folder_keeps_no_other_copy_of_the_base_weights(tmp_path: Path, model: BaseModel) -> None:
    base = tmp_path / "base" / "unet"
    base.mkdir(parents=True)
    tensors = load_file(model.path / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(tensors, base / "diffusion_pytorch_model.safetensors")
    save_file(tensors, base / "diffusion_pytorch_model.fp16.safetensors")
    save_file(tensors, base.parent / "whole.safetensors")
    (base / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (base / "config.json").write_text("{}")
    opened = open_base(base.parent)
    merged = export_merged(
        random_adapter({"unet.conv_in": opened.weights["unet.conv_in"]}, None), opened, tmp_path / "m"
    )
    assert sorted(p.name for p in merged.rglob("*") if p.is_file()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_merging_refuses_what_it_cannot_do(tmp_path: Path, model: BaseModel) -> None:
    state = random_adapter({"unet.conv_in": model.weights["unet.conv_in"]}, None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(FolderInUseError, match="not empty"):
        export_merged(state, model, tmp_path / "full")
    single = BaseModel(model.path / "unet" / "diffusion_pytorch_model.safetensors", model.modules, model.weights)
    with pytest.raises(FileFormatError, match="is a single file"):
        export_merged(state, single, tmp_path / "new")
    foreign = AdapterState({"unet.nowhere": state.layers["unet.conv_in"]})
    with pytest.raises(FileFormatError, match="lacks layers"):
        export_merged(foreign, model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_the_caller_knows_of_the_base_is_in_the_metadata(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, NAMES)
    about = About(base_model="small", base_model_sha256="ab12")
    path = tmp_path / "panda.safetensors"
    export_adapter(random_adapter(base, "input"), base, modules, TARGETS["comfyui"], path, about)
    assert read_header(path).metadata["dora_studio.base_model_sha256"] == "ab12"
