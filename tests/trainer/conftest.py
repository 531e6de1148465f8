"""Tiny random base models in the layout of real ones, and pictures: what every training test runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from trainer.config import RunConfig
from trainer.config_io import parse_config

TOKENS = 16
SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
V_ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FAMILY_NAMES = ("sd1", "sd2", "sdxl")
SUBJECT = Path(__file__).parents[2] / "assets" / "samples" / "subject"
QUICK_ON_STARTER = (  # as many steps as show what a setting does to a subject
    "data.instance_prompt=a sks penguin",
    "train.steps=40",
    "train.batch_size=4",
    "train.validation_every_steps=0",
    "sample.every_steps=0",
    "sample.steps=10",
    "save.every_steps=0",
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random sd1, sd2 (v, zero terminal SNR) or sdxl pipeline: a diffusers folder of about 1 MB."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("base") / f"tiny-{family}"
            tiny_pipeline(family).save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in forked children: sums over two threads round otherwise than sums over one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Five pictures of three shapes, all different; three of them have captions."""
    folder = tmp_path / "my pictures"
    return write_pictures(folder, [(40, 40), (48, 48), (64, 32), (33, 70), (40, 41)], captions=3)


@pytest.fixture
def tiny_settings(tiny_base: Callable[[str], Path], picture_folder: Path) -> Callable[..., RunConfig]:
    """Settings of a run of six quick steps on a tiny base; `changes`: dotted keys with "__" for the dot."""

    def settings(family: str = "sd1", **changes: Any) -> RunConfig:
        values = quick_settings(tiny_base(family), picture_folder)
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (values.setdefault(section, {}) if section else values)[name] = value
        return parse_config(values)

    return settings


def quick_settings(base: Path, pictures: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {"base": str(base)},
        "data": {
            "folder": str(pictures),
            "instance_prompt": "a sks thing",
            "resolution_px": 32,
            "bucket_step_px": 16,
            "smallest_side_px": 8,
        },
        "adapter": {"rank": 2},
        "optim": {"learning_rate": 1e-2},
        "train": {"steps": 6, "validation_every_steps": 0},
        "sample": {"steps": 1, "guidance": 1.0, "every_steps": 0},
        "save": {"every_steps": 1, "keep_last": 100},
    }


def write_pictures(folder: Path, sizes: list[tuple[int, int]], captions: int = 0) -> Path:
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(5)
    for number, (width, height) in enumerate(sizes):
        pixels = torch.randint(0, 256, (height // 8 + 1, width // 8 + 1, 3), generator=random, dtype=torch.uint8)
        picture = Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:02d}.png")
        if number < captions:
            (folder / f"{number:02d}.txt").write_text(f"a sks thing, number {number}", encoding="utf-8")
    return folder


def tiny_pipeline(family: str, seed: int = 0, widths: tuple[int, int] = (8, 16)) -> DiffusionPipeline:
    """`widths`: channels of the UNet's two levels."""
    torch.manual_seed(seed)
    scheduler: Any = DDIMScheduler(**SD, **(V_ZERO_SNR if family == "sd2" else {}))  # the hint knows Karras' only
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(20, 24)),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(28, 12)),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(),
            unet=_unet(
                widths,
                cross_attention_dim=48,
                use_linear_projection=True,
                transformer_layers_per_block=(1, 3),
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=12 + 6 * 8,
            ),
            scheduler=scheduler,
        )
    none: Any = None  # as the hints do not
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(20, 20)),
        tokenizer=tiny_tokenizer(),
        unet=_unet(widths, cross_attention_dim=20, use_linear_projection=family == "sd2"),
        scheduler=scheduler,
        safety_checker=none,
        feature_extractor=none,
        requires_safety_checker=False,
    )


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's layout without a merge: every byte, every byte that ends a word, the two marks."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*bytes_, *(f"{b}</w>" for b in bytes_), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=TOKENS)


def _text_config(width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width + 4,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=projection,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def _vae() -> AutoencoderKL:
    """Four levels, so that a latent is an eighth of a picture, as in every family."""
    levels: dict[str, Any] = {  # which the hints take for tuples of one
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4, 4, 4, 8),
    }
    return AutoencoderKL(
        **levels,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=64,
    )


def _unet(widths: tuple[int, int], **differences: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        **differences,
    )
