"""Noise, target and loss: numbers worked by hand, and diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch.testing import assert_close

from trainer.diffusion import (
    NoiseSchedule,
    add_noise,
    diffusion_loss,
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
