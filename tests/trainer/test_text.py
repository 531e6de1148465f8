"""Text conditioning against what diffusers' own pipelines compute from the same captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import FAMILY_NAMES, TOKENS
from trainer.components import Components, load_components
from trainer.config_sections import ModelConfig
from trainer.text import Framing, encode, tokenize, unet_arguments

CAPTIONS = ["a red fox", "", "a caption that is a good deal longer than what the tokenizer takes"]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_conditioning_is_what_the_pipeline_draws_with(family: str, tiny_base: Callable[[str], Path]) -> None:
    components = load_components(ModelConfig(base=str(tiny_base(family))))
    conditioning = _encoded(components, CAPTIONS)
    encode_prompt: Any = components.pipeline.encode_prompt  # whose hints know one caption at a time
    theirs = encode_prompt(
        CAPTIONS, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(conditioning.hidden, theirs[0])
    assert conditioning.hidden.shape[:2] == (3, TOKENS)
    if family == "sdxl":
        assert conditioning.pooled is not None
        assert torch.equal(conditioning.pooled, theirs[2])
    else:
        assert conditioning.pooled is None


def test_sdxl_is_told_sizes_and_crop_in_the_order_of_its_pipeline(tiny_base: Callable[[str], Path]) -> None:
    components = load_components(ModelConfig(base=str(tiny_base("sdxl"))))
    framing = Framing(original_px=(640, 480), crop_px=(7, 3), size_px=(64, 56))
    given = unet_arguments("sdxl", _encoded(components, ["a"]), [framing])["added_cond_kwargs"]
    theirs = components.pipeline._get_add_time_ids((480, 640), (3, 7), (56, 64), torch.float32, 12)
    assert torch.equal(given["time_ids"], theirs)
    latents = torch.randn(1, 4, 7, 8)
    arguments = unet_arguments("sdxl", _encoded(components, ["a"]), [framing])
    assert components.unet(latents, torch.tensor([5]), **arguments).sample.shape == latents.shape


def test_longer_captions_are_cut_and_keep_their_end_mark(tiny_base: Callable[[str], Path]) -> None:
    components = load_components(ModelConfig(base=str(tiny_base("sd1"))))
    ids = tokenize(components.tokenizers, CAPTIONS)["text_encoder"]
    assert ids.shape == (3, TOKENS)
    assert ids[2, -1] == components.tokenizers["text_encoder"].eos_token_id


def _encoded(components: Components, captions: list[str]):
    with torch.no_grad():
        return encode(components.family.name, components.text_encoders, tokenize(components.tokenizers, captions))
