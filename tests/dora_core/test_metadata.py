"""What a file says about itself, in the words that other programs look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dora_core.families import FAMILIES, Detection, Prediction, detect_family
from dora_core.files import write_adapter
from dora_core.header import read_header
from dora_core.layouts import NAME_ENDINGS, Layout
from dora_core.metadata import About
from dora_core.spec import NormAxis
from dora_core.version import __version__
from tests.adapters import RANK, random_adapter, random_weights, small_modules

LINEAR = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "unet.mid_block.resnets.0.conv1"
ABOUT = About(
    title="Red panda",
    base_model="someone/model",
    base_model_sha256="ab" * 32,
    date="2026-01-31",
    trigger_phrase="a photo of sks panda",
    provenance={"steps": "800"},
)


def metadata_of(
    folder: Path,
    axis: NormAxis | None,
    layout: Layout = "kohya",
    family: str = "sd1",
    names: tuple[str, ...] = (LINEAR,),
    about: About = ABOUT,
) -> dict[str, str]:
    modules = small_modules(family)
    base = random_weights(modules, list(names))
    path = folder / f"panda{NAME_ENDINGS[layout]}"
    write_adapter(path, random_adapter(base, axis), modules, layout, about, base)
    return dict(read_header(path).metadata)


def test_a_dora_file_says_all_of_this(tmp_path: Path) -> None:
    metadata = metadata_of(tmp_path, "input", names=(LINEAR, CONV))
    arguments = json.loads(metadata.pop("ss_network_args"))
    assert arguments == {
        "algo": "lora",
        "conv_alpha": str(RANK),
        "conv_dim": str(RANK),
        "dora_wd": "True",
        "wd_on_output": "False",
    }
    assert len(metadata.pop("sshs_model_hash")) == 64
    assert len(metadata.pop("sshs_legacy_hash")) == 8
    assert metadata == {
        "dora_studio.base_model": "someone/model",
        "dora_studio.base_model_sha256": "ab" * 32,
        "dora_studio.family": "sd1",
        "dora_studio.kind": "dora",
        "dora_studio.layout": "kohya",
        "dora_studio.norm_axis": "input",
        "dora_studio.steps": "800",
        "dora_studio.version": __version__,
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.date": "2026-01-31",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "512x512",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "Red panda",
        "modelspec.trigger_phrase": "a photo of sks panda",
        "ss_base_model_version": "sd_v1",
        "ss_network_alpha": str(RANK),
        "ss_network_dim": str(RANK),
        "ss_network_module": "lycoris.kohya",
        "ss_output_name": "panda",
        "ss_v2": "False",
    }


@pytest.mark.parametrize(
    ("axis", "layout", "module", "arguments"),
    [
        (None, "kohya", "networks.lora", None),
        ("input", "kohya", "lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}),
        ("output", "kohya", "lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}),
        ("output", "kohya-compensated", "lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}),
        ("input", "diff", "lycoris.kohya", {"algo": "full"}),
        ("output", "peft", None, None),
    ],
)
def test_the_network_module_is_one_that_writes_such_files(
    tmp_path: Path, axis: NormAxis | None, layout: Layout, module: str | None, arguments: dict[str, str] | None
) -> None:
    metadata = metadata_of(tmp_path, axis, layout)
    assert metadata.get("ss_network_module") == module
    assert json.loads(metadata.get("ss_network_args", "null")) == arguments
    assert any(key.startswith(("ss_", "sshs_")) for key in metadata) == (layout != "peft")


@pytest.mark.parametrize(
    ("family", "prediction", "version", "architecture", "resolution"),
    [
        ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora", "512x512"),
        ("sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora", "512x512"),
        ("sd2", "v", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "768x768"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "1024x1024"),
        ("sdxl", "v", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "1024x1024"),
    ],
)
def test_family_and_prediction_are_said_as_sd_scripts_says_them_and_are_told_from_it(
    tmp_path: Path, family: str, prediction: Prediction, version: str, architecture: str, resolution: str
) -> None:
    metadata = metadata_of(tmp_path, None, family=family, names=(CONV,), about=About(prediction=prediction))
    assert metadata["ss_base_model_version"] == version
    assert metadata["modelspec.architecture"] == architecture
    assert metadata["modelspec.resolution"] == resolution
    assert as_a1111_tells_it(metadata) == family
    assert detect_family({}, metadata) == Detection(family, prediction)


def as_a1111_tells_it(metadata: dict[str, str]) -> str:
    """Its rule: the version's first letters, then ss_v2, else SD1."""
    if metadata["ss_base_model_version"].startswith("sdxl_"):
        return "sdxl"
    return "sd2" if metadata["ss_v2"] == "True" else "sd1"


def test_layers_of_several_ranks_are_dynamic(tmp_path: Path) -> None:
    modules = small_modules("sd1")
    base = random_weights(modules, [LINEAR, CONV])
    state = random_adapter(base, None)
    layer = state.factors[LINEAR]
    other = LINEAR.replace("to_k", "to_v")
    smaller = type(layer)(layer.down[:2], layer.up[:, :2], layer.alpha)
    write_adapter(tmp_path / "a.safetensors", type(state)({**state.layers, other: smaller}), modules)
    metadata = read_header(tmp_path / "a.safetensors").metadata
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "Dynamic"
    assert json.loads(metadata["ss_network_args"]) == {"conv_alpha": str(RANK), "conv_dim": str(RANK)}


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    metadata = metadata_of(tmp_path, None, about=About())
    assert metadata["modelspec.title"] == "panda"
    assert not {"modelspec.date", "modelspec.trigger_phrase", "dora_studio.base_model_sha256"} & set(metadata)
    assert all(metadata.values())


def test_provenance_cannot_contradict_the_file(tmp_path: Path) -> None:
    metadata = metadata_of(tmp_path, "output", about=About(provenance={"norm_axis": "input", "seed": "7"}))
    assert metadata["dora_studio.norm_axis"] == "output"
    assert metadata["dora_studio.seed"] == "7"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_words_for_both_predictions(family: str) -> None:
    row = FAMILIES[family]
    for table in (row.base_version, row.model_spec, row.resolution_px):
        assert set(table) == {"epsilon", "v"}
