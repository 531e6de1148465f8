"""The weights of a base model come out under their neutral names, from either way to store a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from dora_core.errors import FileFormatError
from dora_core.families import module_list, shipped_modules
from dora_core.keymap import module_paths
from tests.adapters import small_modules
from tests.pipelines import tiny_sd1_pipeline
from trainer.base_weights import open_base

UNETS = {"sd1": 282, "sd2": 282, "sdxl": 794}


def test_a_diffusers_folder_gives_every_linear_and_convolution(tmp_path: Path) -> None:
    pipeline = tiny_sd1_pipeline(tmp_path / "vocabulary")
    pipeline.save_pretrained(tmp_path / "model")
    base = open_base(tmp_path / "model")
    assert base.modules.family.name == "sd1"
    unet = {f"unet.{n}": m.weight for n, m in pipeline.unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    text = {
        f"text_encoder.text_model.{name.removeprefix('text_model.')}": module.weight
        for name, module in pipeline.text_encoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert base.weights.keys() == base.modules.shapes.keys() == unet.keys() | text.keys()
    for name, weight in (unet | text).items():
        assert torch.equal(base.weights[name], weight)
    assert all(base.modules.shapes[name] == tuple(weight.shape) for name, weight in unet.items())


def test_variants_and_shards_of_a_folder_are_understood(tmp_path: Path) -> None:
    unet = tmp_path / "unet"
    unet.mkdir()
    names = list(module_list("unet-sd1"))
    tensors = {f"{name}.weight": torch.full(small_modules("sd1").shapes[f"unet.{name}"], 1.0) for name in names}
    keys = list(tensors)
    save_file(
        {key: tensors[key] for key in keys[:100]}, unet / "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
    )
    save_file(
        {key: tensors[key] for key in keys[100:]}, unet / "diffusion_pytorch_model.fp16-00002-of-00002.safetensors"
    )
    assert len(open_base(tmp_path).weights) == UNETS["sd1"]
    half = open_base(tmp_path).sha256
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, unet / "diffusion_pytorch_model.safetensors")
    assert open_base(tmp_path).weights["unet.conv_in"].max() == 2  # the variant without a name goes first
    assert open_base(tmp_path).sha256 != half


@pytest.mark.parametrize("family", UNETS)
def test_the_unet_of_a_checkpoint_file_is_what_diffusers_makes_of_it(tmp_path: Path, family: str) -> None:
    tensors = unet_in_original_names(family)
    save_file(tensors, tmp_path / "model.safetensors")
    base = open_base(tmp_path / "model.safetensors")
    assert base.modules.family.name == family

    biases = {key.replace(".weight", ".bias"): torch.zeros(1) for key in tensors}
    norm = {f"model.diffusion_model.out.0.{key}": torch.zeros(1) for key in ("weight", "bias")}
    blocks = [None] * {"sdxl": 3}.get(family, 4)
    config = {"layers_per_block": 2, "down_block_types": blocks, "up_block_types": blocks}
    config |= {"addition_embed_type": "text_time"} if family == "sdxl" else {}
    converted = convert_ldm_unet_checkpoint(tensors | biases | norm, config)
    expected = {f"unet.{key.removesuffix('.weight')}": value for key, value in converted.items() if value.dim() > 1}
    assert len(expected) == UNETS[family]
    assert base.weights.keys() == expected.keys()
    assert all(torch.equal(base.weights[name], weight) for name, weight in expected.items())


def unet_in_original_names(family: str) -> dict[str, Tensor]:
    """Its linears and convolutions, small, all different."""
    modules = small_modules(family)
    generator = torch.Generator().manual_seed(5)
    return {
        f"model.diffusion_model.{path}.weight": torch.randn(modules.shapes[name], generator=generator)
        for name, path in module_paths(shipped_modules(family), "sgm").items()
        if name.startswith("unet.")
    }


@pytest.mark.parametrize(
    ("family", "component", "prefix"),
    [("sd2", "text_encoder", "cond_stage_model.model."), ("sdxl", "text_encoder_2", "conditioner.embedders.1.model.")],
)
def test_openclips_fused_attention_is_cut_as_diffusers_cuts_it(
    tmp_path: Path, family: str, component: str, prefix: str
) -> None:
    generator = torch.Generator().manual_seed(6)
    sizes = {
        "attn.in_proj_weight": (18, 6),
        "attn.out_proj.weight": (6, 6),
        "mlp.c_fc.weight": (10, 6),
        "mlp.c_proj.weight": (6, 10),
    }
    layers = 1 + max(int(n.split(".")[4]) for n in shipped_modules(family).shapes if n.startswith(f"{component}."))
    text = {
        f"{prefix}transformer.resblocks.{layer}.{key}": torch.randn(size, generator=generator)
        for layer in range(layers)
        for key, size in sizes.items()
    }
    save_file(unet_in_original_names(family) | text, tmp_path / "model.safetensors")
    base = open_base(tmp_path / "model.safetensors")
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=6))
    expected = convert_open_clip_checkpoint(model, text, prefix)
    assert len(expected) == layers * 6
    for key, weight in expected.items():
        assert torch.equal(base.weights[f"{component}.{key.removesuffix('.weight')}"], weight)


@pytest.mark.parametrize(("family", "prefix"), [("sd1", "cond_stage_model."), ("sdxl", "conditioner.embedders.0.")])
def test_clip_l_lies_in_a_checkpoint_under_its_own_names(tmp_path: Path, family: str, prefix: str) -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    path = "text_model.encoder.layers.11.mlp.fc2"
    tensors = unet_in_original_names(family) | {f"{prefix}transformer.{path}.weight": weight}
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(open_base(tmp_path / "model.safetensors").weights[f"text_encoder.{path}"], weight)


def test_what_is_no_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="neither a folder nor a file"):
        open_base(tmp_path / "nothing")
    with pytest.raises(FileFormatError, match="no folder 'unet'"):
        open_base(tmp_path)
    (tmp_path / "unet").mkdir()
    with pytest.raises(FileFormatError, match="safe serialization"):
        open_base(tmp_path)
    save_file({"x.weight": torch.zeros(2, 2)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(FileFormatError, match="none of sd1, sd2, sdxl"):
        open_base(tmp_path)
    with pytest.raises(FileFormatError, match="none of sd1, sd2, sdxl"):
        open_base(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
