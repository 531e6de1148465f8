"""Noise, target and weighting: numbers worked by hand, and diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor
from torch.testing import assert_close

from dora_core.families import Prediction
from trainer.diffusion import (
    NoiseSchedule,
    add_noise,
    diffusion_loss,
    min_snr_weight,
    noise_schedule,
    prediction_target,
    rescale_to_zero_snr,
    squared_error,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def test_noised_latents_and_targets_are_the_numbers_worked_by_hand() -> None:
    # a = 0.64: sqrt(a) = 0.8, sqrt(1 - a) = 0.6; x_0 = 2, eps = -1.
    latents, noise, a = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0), torch.full((1, 1, 1, 1), 0.64)
    assert_close(add_noise(latents, noise, a).item(), 0.8 * 2 - 0.6)  # 1.0
    assert prediction_target(latents, noise, a, "epsilon").item() == -1
    assert_close(prediction_target(latents, noise, a, "v").item(), -0.8 - 0.6 * 2)  # -2.0


@pytest.mark.parametrize(
    ("alpha_bar", "epsilon", "v"),
    [
        (0.9, 5 / 9, 0.5),  # SNR 9, above gamma: 5/9, and 5/(9 + 1)
        (0.75, 1.0, 0.75),  # SNR 3, below: 3/3, and 3/4
        (0.0, 1.0, 0.0),  # only noise
    ],
)
def test_min_snr_weights_are_the_numbers_worked_by_hand(alpha_bar: float, epsilon: float, v: float) -> None:
    a = torch.tensor([alpha_bar])
    assert_close(min_snr_weight(a, 5.0, "epsilon"), torch.tensor([epsilon]))
    assert_close(min_snr_weight(a, 5.0, "v"), torch.tensor([v]))


def test_min_snr_weights_the_same_error_of_the_picture_alike_whichever_way_the_model_predicts() -> None:
    random = torch.Generator().manual_seed(0)
    latents, noise, error = (torch.randn(3, 4, 5, 7, generator=random) for _ in range(3))
    a = torch.tensor([0.95, 0.6, 0.2]).reshape(3, 1, 1, 1)
    noisy = add_noise(latents, noise, a)
    believed = latents + error  # of x_0; what each prediction says is then determined by x_t
    believed_noise = (noisy - a.sqrt() * believed) / (1 - a).sqrt()
    predictions: dict[Prediction, Tensor] = {
        "epsilon": believed_noise,
        "v": a.sqrt() * believed_noise - (1 - a).sqrt() * believed,
    }
    losses = [
        diffusion_loss(squared_error(said, prediction_target(latents, noise, a, kind)), min_snr_weight(a, 5.0, kind))
        for kind, said in predictions.items()
    ]
    snr = (a / (1 - a)).flatten()
    by_hand = (snr.clamp(max=5) * error.square().mean(dim=(1, 2, 3))).mean()
    assert_close(losses[0], by_hand)
    assert_close(losses[1], by_hand)


def test_without_gamma_every_weight_is_one() -> None:
    assert min_snr_weight(torch.tensor([0.0, 0.3, 0.99]), None, "v").tolist() == [1, 1, 1]


def test_loss_is_the_weighted_mean_over_the_batch() -> None:
    predicted, target = torch.zeros(2, 1, 2, 3), torch.ones(2, 1, 2, 3)
    target[1] = 3
    assert diffusion_loss(squared_error(predicted, target), torch.tensor([0.5, 2.0])).item() == (0.5 * 1 + 2 * 9) / 2


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_the_schedule_of_any_scheduler_is_the_one_that_diffusers_noises_with(scheduler: type) -> None:
    schedule = noise_schedule(scheduler(**SD, prediction_type="v_prediction").config)
    theirs = DDPMScheduler(**SD)
    latents, noise = torch.ones(3, 1, 2, 2), torch.full((3, 1, 2, 2), -2.0)
    timesteps: Any = torch.tensor([0, 400, 999])  # which the hints want as 32-bit integers
    assert schedule.prediction == "v"
    assert_close(add_noise(latents, noise, schedule.at(timesteps)), theirs.add_noise(latents, noise, timesteps))
    assert_close(
        prediction_target(latents, noise, schedule.at(timesteps), "v"),
        theirs.get_velocity(latents, noise, timesteps),
    )


def test_zero_terminal_snr_is_what_diffusers_makes_of_it_and_ends_in_pure_noise() -> None:
    theirs = DDIMScheduler(**SD, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    schedule = noise_schedule(theirs.config)
    assert_close(schedule.alphas_bar, theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)  # theirs goes by betas and back
    assert schedule.alphas_bar[-1] == 0
    assert_close(schedule.alphas_bar[0], DDPMScheduler(**SD).alphas_cumprod[0])


def test_rescaling_is_the_numbers_worked_by_hand() -> None:
    # roots 0.9, 0.6, 0.3 -> (r - 0.3) * 0.9 / 0.6 -> 0.9, 0.45, 0
    assert_close(rescale_to_zero_snr(torch.tensor([0.81, 0.36, 0.09])), torch.tensor([0.81, 0.2025, 0.0]))


def test_an_impossible_schedule_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="zero terminal SNR needs a model that predicts v"):
        noise_schedule(DDPMScheduler(**SD, rescale_betas_zero_snr=True).config)
    with pytest.raises(ValueError, match="predicts 'sample'"):
        noise_schedule(DDPMScheduler(**SD, prediction_type="sample").config)


def test_alpha_bar_of_a_batch_broadcasts_over_latents() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.5, 0.1]), "epsilon")
    assert schedule.at(torch.tensor([2, 0])).tolist() == [[[[pytest.approx(0.1)]]], [[[pytest.approx(0.9)]]]]
