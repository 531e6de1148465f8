"""Checkpoints as they are sold: one .safetensors file, in any of the shapes that people upload, without a network."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, shipped_modules
from tests.trainer.checkpoint_file import checkpoint, original_unet, write_checkpoint
from tests.trainer.conftest import FAMILY_NAMES, tiny_pipeline
from trainer.base_files import look_up
from trainer.base_weights import open_base
from trainer.clip_tokenizer import MERGES, clip_tokenizer
from trainer.components import Components, load_components
from trainer.config import RunConfig
from trainer.config_sections import ModelConfig
from trainer.plan import plan
from trainer.single_file import config_folder
from trainer.text import tokenize

EMBEDDING = "cond_stage_model.transformer.text_model.embeddings"
HARD = [
    "a photo of a cat",
    "",
    "  two   spaces\tand a\nline  ",
    "It's the cat's, they'll say we've 1234567 of them!!! (very:1.3), [[x]] <lora:y:1>",
    "ÜBERGRÖSSE naïve café, façade",
    "e\u0301 and \u00e9 are one letter",
    "日本の猫, кошка, 고양이, 🐈‍⬛ 🦊",
    "<|endoftext|> within <|startoftext|> it",
    "antidisestablishmentarianism-pneumonoultramicroscopicsilicovolcanoconiosis",
    "word " * 100,
]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_one_checkpoint_file_is_the_same_model_as_its_folder(
    family: str, tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    file = tmp_path / "my model.safetensors"
    write_checkpoint(family, tiny_base(family), file)
    from_file = load_components(ModelConfig(base=str(file)))
    from_folder = load_components(ModelConfig(base=str(tiny_base(family))))
    assert from_file.family.name == family
    assert from_file.fingerprint == from_folder.fingerprint
    stored, saved = open_base(file), open_base(tiny_base(family))
    assert stored.modules.shapes == saved.modules.shapes
    assert all(torch.equal(stored.weights[name], saved.weights[name]) for name in saved.weights)
    assert look_up(str(file)).shapes == look_up(str(tiny_base(family))).shapes
    assert from_file.pipeline.scheduler.config == from_folder.pipeline.scheduler.config
    tokens = [tokenize(loaded.tokenizers, ["a red fox!"]) for loaded in (from_file, from_folder)]
    assert {name: ids.tolist() for name, ids in tokens[0].items()} == {n: ids.tolist() for n, ids in tokens[1].items()}


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
AS_SOLD: Mapping[str, Change] = {
    "half precision": lambda tensors: {key: value.half() for key, value in tensors.items()},
    "with averaged weights": lambda tensors: tensors | {"model_ema.decay": torch.tensor(0.9)} | _averaged(tensors),
    "before text_model": lambda tensors: {key.replace(".text_model.", "."): value for key, value in tensors.items()},
    "with what is no weight": lambda tensors: (
        tensors
        | {f"{EMBEDDING}.position_ids": torch.arange(16)[None], "betas": torch.ones(7), "global_step": torch.tensor(3)}
    ),
}


def _averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint of a training holds besides: the same weights again, averaged, under squeezed names."""
    unet = {key: value for key, value in tensors.items() if key.startswith("model.diffusion_model.")}
    return {f"model_ema.{key.removeprefix('model.').replace('.', '')}": value + 1 for key, value in unet.items()}


@pytest.mark.parametrize("how", AS_SOLD)
def test_files_as_they_are_sold_are_the_same_model(how: str, tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    plain, sold = tmp_path / "plain.safetensors", tmp_path / "sold.safetensors"
    for file in (plain, sold):
        write_checkpoint("sd1", tiny_base("sd1"), file)
    save_file(AS_SOLD[how](load_file(plain)), sold)
    ours, theirs = (load_components(ModelConfig(base=str(file)), dtype=torch.float16) for file in (sold, plain))
    if how != "half precision":  # which the VAE, kept in float32, sees
        assert ours.fingerprint == theirs.fingerprint
    for part, model in ours.models.items():
        assert all(torch.equal(v, theirs.models[part].state_dict()[k]) for k, v in model.state_dict().items())
    assert open_base(sold).modules.shapes == open_base(plain).modules.shapes


def test_what_marks_of_sdxl_say_is_done(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    def load(name: str, marks: dict[str, Tensor], **settings: Any) -> Components:
        file = tmp_path / f"{name}.safetensors"
        write_checkpoint("sdxl", tiny_base("sdxl"), file)
        save_file(checkpoint("sdxl", tiny_base("sdxl")) | marks, file)
        return load_components(ModelConfig(base=str(file), **settings))

    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    assert load("plain", {}).noise_schedule().prediction == "epsilon"
    v = load("v", {"v_pred": torch.zeros(0)}).noise_schedule()
    assert (v.prediction, v.alphas_bar[-1] > 0) == ("v", True)
    both = load("both", marks)
    assert (both.noise_schedule().prediction, both.noise_schedule().alphas_bar[-1]) == ("v", 0)
    assert both.pipeline.scheduler.config.timestep_spacing == "trailing"  # samples begin in pure noise as well
    told = load("told", marks, prediction="epsilon", zero_terminal_snr=False).noise_schedule()
    assert (told.prediction, told.alphas_bar[-1] > 0) == ("epsilon", True)


@pytest.mark.parametrize(
    ("metadata", "spread", "prediction"),
    [
        ({"modelspec.prediction_type": "v"}, 0.0, "v"),
        ({"modelspec.predict_key": "v"}, 0.0, "v"),  # as ComfyUI saves it
        ({"modelspec.predict_key": "epsilon"}, 0.2, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, 0.0, "v"),
        ({}, 0.2, "v"),  # ComfyUI's rule: a standard deviation above 0.09
        ({}, 0.08, "epsilon"),
    ],
)
def test_what_sd2_predicts_is_told_by_metadata_else_as_comfyui_tells_it(
    tmp_path: Path, metadata: dict[str, str], spread: float, prediction: str
) -> None:
    block = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensors = {
            f"{block}.attn2.to_k.weight": torch.zeros(3, 1024),
            "model.diffusion_model.output_blocks.11.1.proj_in.weight": torch.zeros(3, 3),
            f"{block}.norm1.bias": torch.tensor([spread, -spread, spread, -spread, spread, -spread]).to(dtype),
            "cond_stage_model.model.ln_final.weight": torch.zeros(3),
        }
        save_file(tensors, tmp_path / f"{dtype}.safetensors", metadata)
        assert look_up(str(tmp_path / f"{dtype}.safetensors")).prediction == prediction


UNFIT: Mapping[str, tuple[Change, str]] = {
    "inpainting": (
        lambda t: t | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)},
        "takes 9 channels, a latent has 4: it is an inpainting, depth or editing model. Train on the ordinary model",
    ),
    "EDM": (lambda t: t | {"edm_vpred.sigma_max": torch.tensor(120.0)}, "another kind of noise (EDM, says its entry"),
    "UNet alone": (lambda t: {k: v for k, v in t.items() if k.startswith("model.")}, "holds no text_encoder: give the"),
}


@pytest.mark.parametrize("how", UNFIT)
def test_a_checkpoint_that_is_no_ordinary_whole_model_is_refused_in_words(
    how: str, tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    change, words = UNFIT[how]
    save_file(change(checkpoint("sd1", tiny_base("sd1"))), tmp_path / "unfit.safetensors")
    with pytest.raises(FileFormatError, match=re.escape(words)):
        look_up(str(tmp_path / "unfit.safetensors"))


def test_an_inpainting_model_in_a_folder_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    weights = load_file_of_unet() | {"conv_in.weight": torch.zeros(8, 9, 3, 3)}
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(FileFormatError, match="takes 9 channels"):
        look_up(str(tmp_path))


def load_file_of_unet() -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in tiny_pipeline("sd1").unet.state_dict().items()}


def test_a_file_that_lost_weights_or_is_of_another_size_says_so(
    tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    file = tmp_path / "lost.safetensors"
    write_checkpoint("sd1", tiny_base("sd1"), file)
    tensors = load_file(file)
    del tensors[f"{EMBEDDING}.token_embedding.weight"]
    save_file(tensors, file)
    with pytest.raises(FileFormatError, match=r"lacks 1 weights of its text_encoder, the first is .*token_embedding"):
        load_components(ModelConfig(base=str(file)))
    write_checkpoint("sd1", tiny_base("sd1"), tmp_path / "small.safetensors", with_configs=False)
    with pytest.raises(FileFormatError, match=r"is not as large as the released Stable Diffusion 1.x: .* named small"):
        load_components(ModelConfig(base=str(tmp_path / "small.safetensors")))


VAE_FILES: Mapping[str, Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]] = {
    "bare names": lambda original, _: original,
    "a checkpoint's names": lambda original, _: {f"first_stage_model.{key}": v for key, v in original.items()},
    "diffusers' names": lambda _, theirs: theirs,
}


@pytest.mark.parametrize("how", VAE_FILES)
def test_another_vae_may_be_a_file(how: str, tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    other = tiny_pipeline("sd1", seed=1)
    other.save_pretrained(tmp_path / "other")
    prefix = "first_stage_model."
    original = {k.removeprefix(prefix): v for k, v in checkpoint("sd1", tmp_path / "other").items() if prefix in k}
    theirs = {key: value.contiguous() for key, value in other.vae.state_dict().items()}
    file = tmp_path / "my vae.safetensors"
    save_file({k: v.half().contiguous() for k, v in VAE_FILES[how](original, theirs).items()}, file)
    base = tmp_path / "base.safetensors"
    write_checkpoint("sd1", tiny_base("sd1"), base)
    for name in (str(base), str(tiny_base("sd1"))):
        vae = load_components(ModelConfig(base=name, vae=str(file)), dtype=torch.bfloat16).vae
        assert vae.dtype == torch.float32
        assert all(torch.equal(value, theirs[key].half().float()) for key, value in vae.state_dict().items())


def test_a_checkpoint_without_a_vae_needs_one(
    tmp_path: Path, tiny_base: Callable[[str], Path], tiny_settings: Callable[..., RunConfig]
) -> None:
    file, vae = tmp_path / "no vae.safetensors", tmp_path / "vae.safetensors"
    write_checkpoint("sd1", tiny_base("sd1"), file)
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if not key.startswith("first_stage")}, file)
    save_file({key: value for key, value in tensors.items() if key.startswith("first_stage")}, vae)
    sentence = "model.vae: .* has no VAE in it: name one, a .safetensors file"
    (problem,) = plan(tiny_settings(model={"base": str(file)})).problems
    assert (problem.key, bool(re.search(sentence, problem.sentence))) == ("model.vae", True)
    with pytest.raises(FileFormatError, match="has no VAE in it"):
        load_components(ModelConfig(base=str(file)))
    whole = load_components(ModelConfig(base=str(tiny_base("sd1"))))
    assert load_components(ModelConfig(base=str(file), vae=str(vae))).fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("flux.safetensors", {"decoder.conv_in.weight": torch.zeros(3, 16, 3, 3)}, "a VAE of 16 latent channels"),
        ("lora.safetensors", {"lora_unet_x.alpha": torch.ones(())}, "is no VAE"),
        ("vae.pt", {"a": torch.ones(1)}, "is a pickle, which can run code"),
        ("gone.safetensors", {}, "is not there"),
    ],
)
def test_a_vae_that_is_none_is_told_before_anything_is_loaded(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig], name: str, tensors: dict[str, Tensor], words: str
) -> None:
    if tensors:
        save_file(tensors, tmp_path / name)
    (problem,) = plan(tiny_settings(model__vae=str(tmp_path / name))).problems
    assert problem.key == "model.vae"
    assert words in problem.sentence


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_configs_that_come_along_are_those_of_the_released_models(family: str, tmp_path: Path) -> None:
    """By the module lists of files from the field, and by diffusers' conversion at full size, on the meta device."""
    with config_folder(tmp_path / "none beside.safetensors", FAMILIES[family]) as folder:
        told = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/*.json")}
    assert (told["scheduler"]["beta_start"], told["scheduler"]["beta_end"]) == (0.00085, 0.012)
    assert told["vae"]["scaling_factor"] == {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}[family]
    shapes = shipped_modules(family).shapes
    for part in told.keys() - {"unet", "vae", "scheduler"}:
        layers = {name.split(".")[4] for name in shapes if name.startswith(f"{part}.")}
        assert told[part]["num_hidden_layers"] == len(layers)
        width, inner = told[part]["hidden_size"], told[part]["intermediate_size"]
        assert shapes[f"{part}.text_model.encoder.layers.0.mlp.fc1"] == (inner, width)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(told["unet"])
    named = original_unet(family, unet.state_dict())
    converted = convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": v for k, v in named.items()}, told["unet"])
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in unet.state_dict().items()}


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer("<|endoftext|>")


def test_the_tokenizer_that_comes_along_knows_what_clip_knows(tokenizer: CLIPTokenizer) -> None:
    """Ids that anybody can look up; the last is the end of text, which is its padding as well."""
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("hello world!").input_ids == [49406, 3306, 1002, 256, 49407]
    assert len(tokenizer) == 49408
    padded = tokenize({"text_encoder": tokenizer}, ["a dog"])["text_encoder"][0]
    assert padded.tolist() == [49406, 320, 1929] + [49407] * 74
    assert tokenize({"te": clip_tokenizer("!")}, ["a dog"])["te"][0].tolist() == [49406, 320, 1929, 49407] + [0] * 73


@pytest.fixture(scope="module")
def from_files(tmp_path_factory: pytest.TempPathFactory, tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """As transformers loads it from the two files of a model on the hub."""
    folder = tmp_path_factory.mktemp("tokenizer")
    merges = gzip.decompress(MERGES.read_bytes()).decode()
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def test_the_tokenizer_that_comes_along_is_transformers_own(
    tokenizer: CLIPTokenizer, from_files: CLIPTokenizer
) -> None:
    for text in HARD:
        assert tokenizer(text).input_ids == from_files(text).input_ids


def test_it_merges_by_the_published_rule(tokenizer: CLIPTokenizer) -> None:
    ranks = {
        tuple(line.split()): n for n, line in enumerate(gzip.decompress(MERGES.read_bytes()).decode().splitlines())
    }
    for text in HARD:
        if "<|" not in text:
            assert tokenizer.tokenize(text) == [token for word in _words(text) for token in _merged(word, ranks)]


def _words(text: str) -> list[str]:
    """CLIP's own pattern: contractions, runs of letters, single digits, runs of anything else."""
    cleaned = " ".join(unicodedata.normalize("NFC", text).split()).lower()
    return re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+", cleaned)


def _merged(word: str, ranks: Mapping[tuple[str, ...], int]) -> list[str]:
    """Byte pair encoding (arXiv 1508.07909, algorithm 1): of all neighbours the earliest merge goes first."""
    parts = [bytes_to_unicode()[byte] for byte in word.encode()]
    parts[-1] += "</w>"
    while pairs := [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]:
        at = min(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
