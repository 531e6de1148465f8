"""The shipped model is an ordinary Stable Diffusion folder: stock diffusers loads it offline and draws."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

ASSETS = Path(__file__).resolve().parents[2] / "assets"
STARTER = ASSETS / "starter"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(STARTER, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_stock_diffusers_loads_the_folder_without_a_network_and_draws(tmp_path: Path) -> None:
    code = (
        "import socket; socket.socket.connect = None\n"
        "from diffusers import StableDiffusionPipeline as P\n"
        f"pipe = P.from_pretrained({str(STARTER)!r})\n"
        f"pipe('a tiger on a teal background', num_inference_steps=4).images[0].save({str(tmp_path / 'tiger.png')!r})\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    with Image.open(tmp_path / "tiger.png") as drawn:
        assert drawn.size[0] == drawn.size[1] >= 64


def test_everything_it_ships_is_half_precision_safetensors_of_at_most_25_mb(pipeline: StableDiffusionPipeline) -> None:
    parts = [STARTER / name for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")]
    files = [file for part in parts for file in part.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt"}
    weights = [load_file(file) for file in files if file.suffix == ".safetensors"]
    assert len(weights) == 3
    assert {tensor.dtype for part in weights for tensor in part.values()} == {torch.float16}


def test_it_has_the_architecture_of_sd1(pipeline: StableDiffusionPipeline) -> None:
    block = pipeline.unet.down_blocks[0].attentions[0]
    assert isinstance(block.proj_in, torch.nn.Conv2d)
    assert block.transformer_blocks[0].attn2.to_k.in_features == pipeline.text_encoder.config.hidden_size
    assert pipeline.vae_scale_factor == 8


@pytest.mark.parametrize("word", ["sks", "zwxqj", "Übergröße", "图", "3d"])
def test_its_tokenizer_spells_out_words_that_it_never_saw(pipeline: StableDiffusionPipeline, word: str) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer(f"a {word} tiger").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == f"a{word}tiger".lower()


def test_its_tokenizer_knows_captions_word_by_word_and_every_token_has_an_embedding(
    pipeline: StableDiffusionPipeline,
) -> None:
    assert pipeline.tokenizer.tokenize("a red apple on a teal background") == [
        f"{word}</w>" for word in ("a", "red", "apple", "on", "a", "teal", "background")
    ]
    assert len(pipeline.tokenizer) == pipeline.text_encoder.get_input_embeddings().num_embeddings


def test_it_draws_the_background_that_is_asked_for(pipeline: StableDiffusionPipeline) -> None:
    asked = {"red": 0, "green": 1, "blue": 2}
    captions = [f"a tiger on a {colour} background" for colour in asked]
    noise = [torch.Generator().manual_seed(7) for _ in captions]
    drawn = pipeline(captions, num_inference_steps=12, guidance_scale=3.0, generator=noise, output_type="pt").images
    corners = drawn[:, :, :4, :4].mean((2, 3))
    assert corners.argmax(1).tolist() == list(asked.values())


@pytest.mark.parametrize(("folder", "count"), [("icons3d", 16), ("subject", 6)])
def test_sample_sets_have_a_caption_for_each_picture_and_say_their_licence(folder: str, count: int) -> None:
    pictures = sorted((ASSETS / "samples" / folder).glob("*.jpg"))
    assert len(pictures) == count
    assert all(picture.with_suffix(".txt").read_text(encoding="utf-8").strip() for picture in pictures)
    assert "MIT" in (ASSETS / "samples" / folder / "README.md").read_text(encoding="utf-8")


def test_sample_sets_take_less_than_a_megabyte() -> None:
    assert sum(f.stat().st_size for f in (ASSETS / "samples").rglob("*") if f.is_file()) < 1_000_000
