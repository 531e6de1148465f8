"""A seed means here what it means elsewhere, so a picture of ours can be drawn again by other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer.components import load_components
from trainer.config_sections import ModelConfig
from trainer.sampling import draw_picture, start_noise
from trainer.shot import Shot

SHOT = Shot("a thing", "", 7, steps=2, guidance=2.0, width=32, height=24)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_picture_is_what_diffusers_draws_with_the_same_seed(family: str, tiny_base: Callable[[str], Path]) -> None:
    components = load_components(ModelConfig(base=str(tiny_base(family))))
    drawn = components.pipeline(
        SHOT.prompt,
        negative_prompt=SHOT.negative,
        num_inference_steps=SHOT.steps,
        guidance_scale=SHOT.guidance,
        width=SHOT.width,
        height=SHOT.height,
        generator=torch.Generator().manual_seed(SHOT.seed),
    )
    assert not isinstance(drawn, tuple)
    stock = drawn.images[0]
    assert isinstance(stock, Image.Image)
    assert draw_picture(components, SHOT).tobytes() == stock.tobytes()
    assert draw_picture(components, replace(SHOT, seed=8)).tobytes() != stock.tobytes()


def test_noise_is_what_comfyui_begins_with_in_every_precision(tiny_base: Callable[[str], Path]) -> None:
    """Its prepare_noise: the global CPU generator seeded, one draw in float32 of the empty latent's shape."""
    torch.manual_seed(SHOT.seed)
    theirs = torch.randn(1, 4, SHOT.height // 8, SHOT.width // 8)
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = load_components(ModelConfig(base=str(tiny_base("sd1"))), dtype=dtype).pipeline
        ours = start_noise(pipeline, SHOT, torch.Generator().manual_seed(SHOT.seed))
        assert ours.dtype == dtype
        assert torch.equal(ours, theirs.to(dtype))
