"""Base models: what is loaded from where, and what is refused with which advice."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dora_core.errors import FileFormatError
from tests.trainer.conftest import FAMILY_NAMES, tiny_pipeline
from trainer.components import load_components
from trainer.config_sections import ModelConfig


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_folder_is_loaded_frozen_with_its_family_told_from_the_header(
    family: str, tiny_base: Callable[[str], Path]
) -> None:
    components = load_components(ModelConfig(base=str(tiny_base(family))))
    assert components.family.name == family
    assert components.models.keys() == {row.name for row in components.family.components}
    assert components.tokenizers.keys() == components.text_encoders.keys()
    assert not any(p.requires_grad for model in components.models.values() for p in model.parameters())
    assert not any(model.training for model in components.models.values())
    assert components.noise_schedule().prediction == ("v" if family == "sd2" else "epsilon")


def test_what_the_user_says_of_the_schedule_goes_before_the_files(tiny_base: Callable[[str], Path]) -> None:
    base = str(tiny_base("sd1"))
    told = load_components(ModelConfig(base=base, prediction="v", zero_terminal_snr=True))
    assert told.noise_schedule().prediction == "v"
    assert told.noise_schedule().alphas_bar[-1] == 0
    assert told.pipeline.scheduler.config.timestep_spacing == "trailing"
    plain = load_components(ModelConfig(base=str(tiny_base("sd2")), zero_terminal_snr=False))
    assert plain.noise_schedule().alphas_bar[-1] > 0


def test_the_vae_stays_in_float32_and_another_one_can_be_named(
    tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    other = tmp_path / "other vae"
    tiny_pipeline("sd1", seed=1).vae.save_pretrained(other)
    base = str(tiny_base("sd1"))
    own, told = (load_components(ModelConfig(base=base, vae=v), dtype=torch.bfloat16) for v in (None, str(other)))
    assert {part.dtype for part in (own.unet, own.text_encoders["text_encoder"])} == {torch.bfloat16}
    assert own.vae.dtype == told.vae.dtype == torch.float32
    assert own.fingerprint != told.fingerprint


def test_a_fingerprint_knows_the_model_wherever_it_lies(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    first = load_components(ModelConfig(base=str(tiny_base("sd1"))))
    first.pipeline.save_pretrained(tmp_path / "moved")
    moved = load_components(ModelConfig(base=str(tmp_path / "moved")))
    assert moved.fingerprint == first.fingerprint
    with torch.no_grad():
        moved.unet.conv_out.weight[0, 0, 0, 0] += 1
    again = load_components(ModelConfig(base=str(tmp_path / "moved")))
    assert again.fingerprint == first.fingerprint
    moved.pipeline.save_pretrained(tmp_path / "changed")
    assert load_components(ModelConfig(base=str(tmp_path / "changed"))).fingerprint != first.fingerprint


def test_pickles_are_refused_by_name_with_a_command_that_converts_them(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.arange(3)}}, file)
    with pytest.raises(
        FileFormatError, match=r"is a pickle, which can run code .* torch.load\('model.ckpt', weights_only"
    ):
        load_components(ModelConfig(base=str(file)))


def test_a_pickle_under_another_name_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    file = tmp_path / "model.safetensors"
    file.write_bytes(pickle.dumps(_Bomb(str(ran))))
    with pytest.raises(FileFormatError, match="no whole safetensors file"):
        load_components(ModelConfig(base=str(file)))
    assert not ran.exists()


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    folder = tmp_path / "old"
    (folder / "unet").mkdir(parents=True)
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(FileFormatError, match=r"diffusion_pytorch_model\.bin,? .*pickle"):
        load_components(ModelConfig(base=str(folder)))


def test_an_adapter_or_another_model_is_refused_as_base(tmp_path: Path) -> None:
    adapter, other = tmp_path / "adapter.safetensors", tmp_path / "other.safetensors"
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    save_file({key: torch.zeros(4, 768)}, adapter)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3)}, other)
    with pytest.raises(FileFormatError, match="holds no UNet"):
        load_components(ModelConfig(base=str(adapter)))
    with pytest.raises(FileFormatError, match="none of sd1, sd2, sdxl"):
        load_components(ModelConfig(base=str(other)))


def test_a_path_that_is_not_there_says_what_would_do() -> None:
    with pytest.raises(FileFormatError, match="give a diffusers folder"):
        load_components(ModelConfig(base="no/such/model.safetensors"))


class _Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")
