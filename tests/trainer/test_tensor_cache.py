"""What is computed once, kept by content, and never stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer.build import load_examples
from trainer.components import load_components
from trainer.config import RunConfig
from trainer.config_data import MaskConfig
from trainer.config_sections import ModelConfig
from trainer.data.dataset import pixels
from trainer.data.latents import BadLatentsError, LatentCache, scaled_latents
from trainer.data.tensor_cache import TensorCache, cache_key
from trainer.data.text_cache import LiveText, cache_text


def test_an_entry_is_computed_once_and_comes_back_equal(tmp_path: Path) -> None:
    cache, calls = TensorCache(tmp_path), list[int]()

    def compute() -> dict[str, Tensor]:
        calls.append(1)
        return {"a": torch.arange(6.0).reshape(2, 3).t()}

    first, second = cache.get("k1", compute), cache.get("k1", compute)
    assert len(calls) == 1
    assert torch.equal(first["a"], second["a"])
    cache.get("k2", compute)
    assert len(calls) == 2


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.get("k1", lambda: {"a": torch.zeros(3)})
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-2])
    assert torch.equal(cache.get("k1", lambda: {"a": torch.ones(3)})["a"], torch.ones(3))


def test_keys_depend_on_every_fact_and_its_place() -> None:
    assert len({cache_key("a", "b"), cache_key("b", "a"), cache_key("ab"), cache_key("a", "b", "")}) == 4


def test_latents_are_the_scaled_mean_of_the_vae_and_depend_on_content_not_on_names(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    config = tiny_settings()
    components = load_components(ModelConfig(base=config.model.base))
    cache = LatentCache(components.vae, "vae 1", "#ffffff", TensorCache(tmp_path / "cache"))
    examples = load_examples(config.data)
    views = cache.encode_all(examples, lambda done, total: None)
    bucket = examples[0].bucket
    assert views[0][0].latents.shape == (4, bucket.height // 8, bucket.width // 8)
    for example in examples:
        example.picture.path.rename(example.picture.path.with_stem("moved " + example.picture.path.stem))
    again = cache.encode_all(examples, lambda done, total: None)  # the files are gone: from the cache, or an error
    assert all(torch.equal(one.latents, other.latents) for (one,), (other,) in zip(views, again, strict=True))
    with pytest.raises(FileNotFoundError):
        replace(cache, background="#000000").encode_all(examples, lambda done, total: None)
    with pytest.raises(FileNotFoundError):
        replace(cache, vae_fingerprint="vae 2").encode_all(examples, lambda done, total: None)


def test_a_picture_that_the_vae_cannot_take_is_named(tmp_path: Path, tiny_settings: Callable[..., RunConfig]) -> None:
    config = tiny_settings()
    vae = load_components(ModelConfig(base=config.model.base)).vae
    with torch.no_grad():
        vae.encoder.conv_out.weight.fill_(torch.nan)
    cache = LatentCache(vae, "vae 1", "#ffffff", TensorCache(tmp_path / "cache"))
    with pytest.raises(BadLatentsError, match=r"no numbers of 00\.png"):
        cache.encode_all(load_examples(config.data), lambda done, total: None)


def test_cached_text_is_what_the_encoders_say(tmp_path: Path, tiny_base: Callable[[str], Path]) -> None:
    components = load_components(ModelConfig(base=str(tiny_base("sdxl"))))
    live = LiveText("sdxl", components.text_encoders, components.tokenizers)
    captions = ["a fox", "two foxes"]
    with torch.no_grad():
        wanted = live.conditioning(captions)
    for _ in range(2):  # computed, then read
        cached = cache_text(live, captions, "base 1", TensorCache(tmp_path)).conditioning(captions)
        torch.testing.assert_close(cached.hidden, wanted.hidden)
        torch.testing.assert_close(cached.pooled, wanted.pooled)


def test_a_mask_that_was_drawn_anew_and_another_weight_outside_are_never_stale(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    config, masks = tiny_settings(), tmp_path / "masks"
    masks.mkdir()
    components = load_components(ModelConfig(base=config.model.base))
    cache = LatentCache(components.vae, "vae 1", "#ffffff", TensorCache(tmp_path / "cache"))

    def weights(white: tuple[int, int, int, int], outside: float) -> Tensor:
        mask = Image.new("L", (40, 40))  # as 00.png is
        mask.paste(255, white)
        mask.save(masks / "00.png")
        data = config.data.model_copy(update={"mask": MaskConfig(source=str(masks), unmasked_weight=outside)})
        (views, *_) = cache.encode_all(load_examples(data)[:1], lambda done, total: None)
        return views[0].pixel_weights

    left, right = (0, 0, 20, 40), (20, 0, 40, 40)
    first = weights(left, 0.0)
    torch.testing.assert_close(first, torch.tensor([2.0, 2.0, 0.0, 0.0]).expand(1, 4, 4))
    torch.testing.assert_close(weights(right, 0.0), first.flip(2))
    assert weights(right, 0.5).min() > 0
    assert torch.equal(weights(left, 0.0), first)


def test_a_mirrored_view_is_encoded_by_itself(tmp_path: Path, tiny_settings: Callable[..., RunConfig]) -> None:
    config = tiny_settings()
    components = load_components(ModelConfig(base=config.model.base))
    cache = LatentCache(components.vae, "vae 1", "#ffffff", TensorCache(tmp_path / "cache"))
    data = config.data.model_copy(update={"flip": True})
    ((plain, mirrored), *_) = cache.encode_all(load_examples(data)[:1], lambda done, total: None)
    assert not torch.equal(plain.latents, mirrored.latents)
    picture = pixels(load_examples(data)[0], load_examples(data)[0].placements[0], "#ffffff").flip(2)[None]
    torch.testing.assert_close(mirrored.latents, scaled_latents(components.vae, picture)[0])
