"""Image sets in training: weights, masks, and what of the base model shall stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainer.conftest import write_pictures
from trainer.build import build_training
from trainer.components import Components, load_components
from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.data.text_cache import CachedText
from trainer.diffusion import add_noise
from trainer.home import Home
from trainer.loop import accumulate_gradients, take_step
from trainer.noise import Draw
from trainer.optim import named_parameters
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.text import encode, tokenize
from trainer.training import Training

Settings = Callable[..., RunConfig]


def built(tmp_path: Path, config: RunConfig) -> tuple[Components, Training]:
    components = load_components(config.model)
    compute = Compute(torch.device("cpu"), torch.float32)
    return components, build_training(
        config, components, compute, Home(tmp_path / "home"), lambda name, done, total: None
    )


def with_data(config: RunConfig, **data: Any) -> RunConfig:
    values = config.model_dump(mode="json", exclude_none=True)
    return RunConfig.model_validate({**values, "data": {**values["data"], **data}})


def fixed_draw(latents: torch.Tensor) -> Draw:
    random = torch.Generator().manual_seed(3)
    return Draw(torch.randn(latents.shape, generator=random), torch.arange(len(latents)) * 200 + 100)


def test_outside_the_mask_the_picture_counts_for_nothing_inside_as_much_as_a_whole_one(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    pictures = write_pictures(tmp_path / "squares", [(64, 64), (64, 64)])
    for name in ("00.png", "01.png"):  # of 8 x 8 latents the right half
        mask = Image.new("L", (64, 64))
        mask.paste(255, (32, 0, 64, 64))
        mask.save(masks / name)
    config = with_data(
        tiny_settings(train__batch_size=2, data__folder=str(pictures)),
        folder=str(pictures),
        resolution_px=64,
        mask={"source": str(masks)},
    )
    _, training = built(tmp_path, config)
    dataset = training.datasets[0]
    batch = dataset.plain_batch([0, 1])
    fixed = fixed_draw(batch.latents)
    loss = training.denoiser.loss(batch, fixed)
    whole = replace(batch, pixel_weights=torch.ones_like(batch.pixel_weights))
    halves = [replace(batch, pixel_weights=batch.pixel_weights.flip(3)), batch]
    left, right = (training.denoiser.loss(half, fixed).errors for half in halves)
    torch.testing.assert_close((left + right) / 2, training.denoiser.loss(whole, fixed).errors)  # each of mean one
    assert loss.weighted.item() == pytest.approx(right.mean().item(), rel=1e-6)
    predicted = training.denoiser.predict(batch, noisy(training, batch.latents, fixed), fixed.timesteps)
    error = (predicted - fixed.noise).square()
    torch.testing.assert_close(right, error[:, :, :, 4:].mean(dim=(1, 2, 3)))


def noisy(training: Training, latents: torch.Tensor, fixed: Draw) -> torch.Tensor:
    return add_noise(latents, fixed.noise, training.denoiser.schedule.at(fixed.timesteps))


def test_sets_are_mixed_in_one_order_by_repeats_and_their_losses_weighed(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    more = write_pictures(tmp_path / "more", [(40, 40), (50, 50)])
    config = with_data(
        tiny_settings(train__batch_size=1), more=[{"folder": str(more), "repeats": 3, "weight": 0.25, "trigger": "zxc"}]
    )
    _, training = built(tmp_path, config)
    (dataset,) = training.datasets
    assert dataset.order.batches_per_pass == 5 + 2 * 3
    batches = [dataset.batch(number) for number in range(11)]
    assert sorted(float(batch.weights) for batch in batches) == [0.25] * 6 + [1.0] * 5
    assert {batch.captions[0] for batch in batches if batch.weights == 0.25} == {"zxc"}
    batch = next(batch for batch in batches if batch.weights == 0.25)
    fixed = fixed_draw(batch.latents)
    loss = training.denoiser.loss(batch, fixed)
    assert loss.weighted.item() == pytest.approx(0.25 * loss.errors.item())


@pytest.mark.parametrize(("family", "kind"), [("sd1", "full"), ("sdxl", "dora")])
def test_a_kept_set_is_told_what_the_base_says_with_its_own_text_encoder(
    family: str, kind: str, tmp_path: Path, tiny_settings: Settings
) -> None:
    kept = write_pictures(tmp_path / "kept", [(40, 40), (48, 48)])
    config = with_data(
        tiny_settings(family, adapter__text_encoder=True, adapter__kind=kind),
        more=[{"folder": str(kept), "role": "prior-prediction", "instance_prompt": "a thing"}],
    )
    _, training = built(tmp_path, config)
    own = training.datasets[1]
    assert own.purpose == "prior-prediction"
    batch = own.plain_batch([0])
    fixed = fixed_draw(batch.latents)
    assert training.denoiser.loss(batch, fixed).weighted.item() == 0  # before the first step all is the base's
    base = load_components(config.model)
    for step in range(1, 4):
        take_step(training, step)
    assert training.denoiser.loss(batch, fixed).weighted.item() > 0
    said = training.denoiser.predict_base(batch, noisy(training, batch.latents, fixed), fixed.timesteps)
    with torch.no_grad():
        text = encode(family, base.text_encoders, tokenize(base.tokenizers, batch.captions))
        added = (
            {}
            if text.pooled is None
            else {
                "added_cond_kwargs": {
                    "text_embeds": text.pooled,
                    "time_ids": torch.tensor([batch.framings[0].time_ids]),
                }
            }
        )
        wanted = base.unet(
            noisy(training, batch.latents, fixed), fixed.timesteps, encoder_hidden_states=text.hidden, **added
        ).sample
    torch.testing.assert_close(said, wanted)


def test_keeping_the_base_moves_it_less_on_what_is_kept(tmp_path: Path, tiny_settings: Settings) -> None:
    kept = write_pictures(tmp_path / "kept", [(40, 40), (48, 48)])
    one = {"folder": str(kept), "role": "prior-prediction", "weight": 4.0, "instance_prompt": "a thing"}
    keeping, free = (built(tmp_path, with_data(tiny_settings(train__steps=12), more=more))[1] for more in ([one], []))
    batch = keeping.datasets[1].plain_batch([0])
    moved = []
    for training in (keeping, free):
        for step in range(1, 13):
            take_step(training, step)
        moved.append(training.denoiser.loss(batch, fixed_draw(batch.latents)).errors.item())
    assert moved[0] < 0.7 * moved[1]


def test_captions_with_few_wordings_are_looked_up_and_those_with_many_encoded_at_every_step(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    config = with_data(tiny_settings(), shuffle_tags=True, tag_dropout=0.5, caption_dropout=0.2)
    (config.data.folder / "00.txt").write_text("one, two, three, four, five")
    components, training = built(tmp_path, config)
    text = training.denoiser.text
    assert isinstance(text, CachedText)
    assert "" in text.table
    assert "a sks thing" in text.table
    assert not any("three" in caption for caption in text.table)
    for captions in (["", "a sks thing"], ["", "two, one, five"]):
        found = text.conditioning(captions).hidden
        with torch.no_grad():
            wanted = encode("sd1", components.text_encoders, tokenize(components.tokenizers, captions)).hidden
        torch.testing.assert_close(found, wanted)
    accumulate_gradients(training, 1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in named_parameters(training.adapters).values())


def test_with_the_cache_in_memory_nothing_is_written_and_the_numbers_are_the_same(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    views = [
        built(tmp_path / cache, with_data(tiny_settings(), cache=cache, flip=True))[1].datasets[0].views
        for cache in ("disk", "memory")
    ]
    assert list((tmp_path / "disk" / "home" / "cache").rglob("*.safetensors"))
    assert not (tmp_path / "memory" / "home" / "cache").exists()
    for one, other in zip(*views, strict=True):
        assert all(torch.equal(a.latents, b.latents) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_sizes_in_steps_of_eight_pixels_are_trained_whatever_the_unet_halves(
    family: str, tmp_path: Path, tiny_settings: Settings
) -> None:
    pictures = write_pictures(tmp_path / "odd", [(40, 40), (43, 40), (40, 57), (77, 40), (41, 79)])
    config = with_data(
        tiny_settings(family, train__steps=5, save__every_steps=0),
        folder=str(pictures),
        resolution_px=56,
        bucket_step_px=8,
        flip=True,
        crop_jitter=True,
    )
    _, training = built(tmp_path, config)
    sizes = {one.bucket for one in training.datasets[0].examples}
    assert any(size.width // 8 % 2 for size in sizes)  # latents of an odd width, which the UNet cannot halve
    assert sum(map(len, training.datasets[0].order.groups)) == 5
    run = RunDir.create(tmp_path / "runs", config)
    assert run_training(run) == "finished"
