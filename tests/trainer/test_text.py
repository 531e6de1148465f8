"""Text conditioning against what diffusers' own pipelines compute from the same captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES
from tests.trainer.conftest import FAMILY_NAMES, TOKENS
from trainer.components import Components, load_components
from trainer.config import RunConfig
from trainer.config_sections import ModelConfig
from trainer.data.tensor_cache import TensorCache
from trainer.data.text_cache import LiveText, cache_text
from trainer.plan import plan
from trainer.sampling import draw_picture
from trainer.shot import Shot
from trainer.text import Framing, tokenize, unet_arguments

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


@pytest.mark.parametrize(("family", "skip"), [("sd1", 2), ("sd1", 3), ("sd2", 3), ("sdxl", 3), ("sdxl", 4)])
def test_clip_skip_is_the_layer_that_diffusers_calls_so_from_its_own_start(
    family: str, skip: int, tiny_base: Callable[[str], Path]
) -> None:
    """diffusers counts from the layer that the family was made with, 0; ComfyUI and A1111 from the last one, 1."""
    plain, told = (load_components(ModelConfig(base=str(tiny_base(family)), clip_skip=n)) for n in (None, skip))
    encode_prompt: Any = told.pipeline.encode_prompt
    if family != "sdxl":  # diffusers 0.42 asks for a name that transformers 5.6 dropped
        encoder: Any = told.pipeline.text_encoder
        encoder.text_model = SimpleNamespace(final_layer_norm=encoder.final_layer_norm)
    theirs = encode_prompt(
        CAPTIONS,
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        clip_skip=skip - FAMILIES[family].clip_skip,
    )
    assert torch.equal(_encoded(told, CAPTIONS).hidden, theirs[0])
    assert not torch.equal(_encoded(told, CAPTIONS).hidden, _encoded(plain, CAPTIONS).hidden)
    if family == "sdxl":  # the pooled text comes from the last layer all the same
        assert torch.equal(_pooled(told), theirs[2])
        assert torch.equal(_pooled(told), _pooled(plain))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_clip_skip_of_the_family_itself_changes_nothing(family: str, tiny_base: Callable[[str], Path]) -> None:
    own, absent = (
        load_components(ModelConfig(base=str(tiny_base(family)), clip_skip=n))
        for n in (FAMILIES[family].clip_skip, None)
    )
    assert torch.equal(_encoded(own, CAPTIONS).hidden, _encoded(absent, CAPTIONS).hidden)
    assert own.drawing_fingerprint == absent.drawing_fingerprint


@pytest.mark.parametrize(("family", "skip"), [("sd1", 5), ("sd2", 1), ("sdxl", 1), ("sdxl", 6)])
def test_a_layer_that_is_not_there_is_told_before_anything_is_loaded(
    family: str, skip: int, tiny_settings: Callable[..., RunConfig]
) -> None:
    """The tiny text encoders have three layers; SD 2's and SDXL's count begins at 2."""
    config = tiny_settings(family, model__clip_skip=skip)
    (problem,) = plan(config).problems
    assert problem.key == "model.clip_skip"
    assert f"{skip} is no layer of" in problem.sentence
    with pytest.raises(FileFormatError, match="is no layer of"):
        load_components(config.model)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_samples_and_the_text_cache_listen_to_the_same_layer(
    family: str, tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    plain, told = (load_components(ModelConfig(base=str(tiny_base(family)), clip_skip=n)) for n in (None, 3))
    shot = Shot("a red fox", "a dog", 7, 2, 4.0, 32, 32)
    assert draw_picture(plain, shot).tobytes() != draw_picture(told, shot).tobytes()
    assert draw_picture(plain, shot).tobytes() == _drawn_by_hand(plain, shot)
    assert draw_picture(told, shot).tobytes() == _drawn_by_hand(told, shot)
    cache = TensorCache(tmp_path)
    for components in (plain, told, plain):  # none takes another's entry
        live = LiveText(family, components.text_encoders, components.tokenizers, components.left_out)
        cached = cache_text(live, CAPTIONS, components.fingerprint, cache).conditioning(CAPTIONS)
        torch.testing.assert_close(cached.hidden, _encoded(components, CAPTIONS).hidden)


def _drawn_by_hand(components: Components, shot: Shot) -> bytes:
    """Both prompts as this file's other tests hold them to diffusers, into its pipeline."""
    positive, negative = (_encoded(components, [text]) for text in (shot.prompt, shot.negative))
    pooled = {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    pipeline: Any = components.pipeline
    drawn = pipeline(
        prompt_embeds=positive.hidden,
        negative_prompt_embeds=negative.hidden,
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        width=shot.width,
        height=shot.height,
        generator=torch.Generator().manual_seed(shot.seed),
        **({} if positive.pooled is None else pooled),
    )
    return drawn.images[0].tobytes()


def _pooled(components: Components) -> torch.Tensor:
    pooled = _encoded(components, CAPTIONS).pooled
    assert pooled is not None
    return pooled


def _encoded(components: Components, captions: list[str]):
    with torch.no_grad():
        return components.conditioning(captions)
