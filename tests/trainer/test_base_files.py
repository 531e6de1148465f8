"""Facts of a base model from its files alone: as counted in the loaded model, and refusals of what is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import save_file

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, shipped_modules
from trainer.base_files import KNOWN_ON_HUB, RELEASED_VAE_PARAMETERS, look_up, weight_files
from trainer.released import released_vae

FAMILY_NAMES = ("sd1", "sd2", "sdxl")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_facts_of_a_folder_are_those_of_the_loaded_model(tiny_base: Callable[[str], Path], family: str) -> None:
    facts = look_up(str(tiny_base(family)))
    pipeline = DiffusionPipeline.from_pretrained(tiny_base(family))
    parts = {name: getattr(pipeline, name) for name in facts.parameters}
    assert set(parts) == {"vae", *(component.name for component in FAMILIES[family].components)}
    assert dict(facts.parameters) == {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert facts.family is FAMILIES[family]
    assert facts.prediction == {"epsilon": "epsilon", "v_prediction": "v"}[pipeline.scheduler.config.prediction_type]
    assert facts.tokens == pipeline.tokenizer.model_max_length
    assert facts.latent_factor == pipeline.vae_scale_factor
    assert facts.is_counted
    files = [file for part in parts for file in (tiny_base(family) / part).glob("*.safetensors")]
    assert facts.bytes_on_disk == sum(file.stat().st_size for file in files)


def test_a_well_known_name_on_the_hub_is_told_by_its_family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, family in KNOWN_ON_HUB.items():
        facts = look_up(name)
        assert (facts.path, facts.family, facts.is_counted) == (None, FAMILIES[family], False)
        assert facts.shapes == shipped_modules(family).shapes
    unknown = look_up("somebody/something")
    assert (unknown.path, unknown.family, dict(unknown.parameters)) == (None, None, {})


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(FileFormatError, match="is a pickle, which can run code"):
        look_up(str(tmp_path / name))


def test_a_pickle_under_another_name_a_cut_file_and_a_folder_of_pickles_are_refused(
    tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "renamed.safetensors")
    with pytest.raises(FileFormatError, match="no whole safetensors file"):
        look_up(str(tmp_path / "renamed.safetensors"))
    folder = tmp_path / "cut"
    shutil.copytree(tiny_base("sd1"), folder)
    (weights,) = weight_files(folder / "unet")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match="damaged or cut short"):
        look_up(str(folder))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileFormatError, match="is a pickle"):
        look_up(str(folder))
    weights.with_suffix(".bin").unlink()
    with pytest.raises(FileFormatError, match=r"has no \.safetensors weights"):
        look_up(str(folder))


def test_an_adapter_another_model_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    prefix = "lora_unet_down_blocks_0_attentions_0"
    lora = {
        f"{prefix}_proj_in.lora_down.weight": torch.zeros(2, 320, 1, 1),
        f"{prefix}_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.zeros(2, 768),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(FileFormatError, match=r"holds no UNet \(an adapter\?\)"):
        look_up(str(tmp_path / "lora.safetensors"))
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3)}, tmp_path / "flux.safetensors")
    with pytest.raises(FileFormatError, match="none of sd1, sd2, sdxl"):
        look_up(str(tmp_path / "flux.safetensors"))
    for nothing in (str(tmp_path / "nowhere"), "no/such/model.safetensors", "./owner/name"):
        with pytest.raises(FileFormatError, match="is not there: give a diffusers folder"):
            look_up(nothing)


def test_a_single_checkpoint_is_told_by_its_header(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(320, 320, 1, 1),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, 768),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(7, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(5, 3),
    }
    save_file(tensors, tmp_path / "sd.safetensors", {"modelspec.prediction_type": "v"})
    facts = look_up(str(tmp_path / "sd.safetensors"))
    assert (facts.family, facts.prediction) == (FAMILIES["sd1"], "v")
    assert dict(facts.parameters) == {"unet": 320 * 320 + 320 * 768, "vae": 7 * 4 * 9, "text_encoder": 15}


def test_of_several_variants_the_plain_one_counts(tmp_path: Path) -> None:
    for name in (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors",
        "other.safetensors",
    ):
        (tmp_path / name).touch()
    assert [file.name for file in weight_files(tmp_path)] == ["diffusion_pytorch_model.safetensors"]
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert [file.name for file in weight_files(tmp_path)] == ["diffusion_pytorch_model.fp16.safetensors"]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_released_vae_is_as_large_as_diffusers_makes_it(family: str) -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(**released_vae(FAMILIES[family]))
    assert sum(p.numel() for p in vae.parameters()) == RELEASED_VAE_PARAMETERS


@pytest.mark.parametrize("name", ["a b/c", "owner/" + "m" * 300, "x" * 300, "~nobody-of-that-name/model", "a/../b"])
def test_a_name_that_neither_a_file_nor_the_hub_can_have_is_refused_in_words(name: str) -> None:
    with pytest.raises(FileFormatError, match="is not there: give a diffusers folder"):
        look_up(name)
