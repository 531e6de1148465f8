"""Weights and sizes of errors: numbers worked by hand, and one meaning for both kinds of prediction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.testing import assert_close

from dora_core.families import Prediction
from trainer.config_learning import LossConfig, Weighting
from trainer.diffusion import add_noise, diffusion_loss, prediction_target, squared_error
from trainer.objective import delta_at, sized, timestep_weight


@pytest.mark.parametrize(
    ("weighting", "alpha_bar", "epsilon", "v"),
    [
        # SNR 9, 3, 0; gamma 5
        ("min-snr", 0.9, 5 / 9, 0.5),  # above gamma: 5/9, and 5/(9 + 1)
        ("min-snr", 0.75, 1.0, 0.75),  # below: 3/3, and 3/4
        ("min-snr", 0.0, 1.0, 0.0),  # only noise
        ("soft-min-snr", 0.9, 5 / 14, 9 / 28),  # 45/14 of x_0's; over 9, over 10
        ("soft-min-snr", 0.75, 5 / 8, 15 / 32),  # 15/8; over 3, over 4
        ("soft-min-snr", 0.0, 1.0, 0.0),
        ("debiased", 0.9, 1 / 3, 0.3),  # 3; over 9, over 10
        ("debiased", 0.2, 2.0, 0.4),  # SNR 1/4: 1/2; over 1/4, over 5/4
        ("debiased", 0.0, math.inf, 0.0),  # no model predicts epsilon there
        ("p2", 0.9, 0.1, 0.09),  # 9/10; over 9, over 10
        ("p2", 0.0, 1.0, 0.0),
        ("none", 0.9, 1.0, 1.0),
        ("none", 0.0, 1.0, 1.0),
    ],
)
def test_weights_are_the_numbers_worked_by_hand(
    weighting: Weighting, alpha_bar: float, epsilon: float, v: float
) -> None:
    a, loss = torch.tensor([alpha_bar]), LossConfig(weighting=weighting)  # gamma absent: 5
    assert_close(timestep_weight(a, "epsilon", loss), torch.tensor([epsilon]))
    assert_close(timestep_weight(a, "v", loss), torch.tensor([v]))


def test_gamma_is_the_one_that_was_set_and_a_large_one_brings_soft_to_hard() -> None:
    a = torch.tensor([0.9, 0.75])
    hard = timestep_weight(a, "epsilon", LossConfig(weighting="min-snr", min_snr_gamma=2))
    assert_close(hard, torch.tensor([2 / 9, 2 / 3]))
    soft = timestep_weight(a, "epsilon", LossConfig(weighting="soft-min-snr", min_snr_gamma=2))
    assert_close(soft, torch.tensor([2 / 11, 2 / 5]))


@pytest.mark.parametrize("weighting", ["min-snr", "soft-min-snr", "debiased", "p2"])
def test_a_weighting_counts_the_same_error_of_the_picture_alike_whichever_way_the_model_predicts(
    weighting: Weighting,
) -> None:
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
    loss = LossConfig(weighting=weighting)
    losses = [
        diffusion_loss(squared_error(said, prediction_target(latents, noise, a, kind)), timestep_weight(a, kind, loss))
        for kind, said in predictions.items()
    ]
    snr = (a / (1 - a)).flatten()
    of_picture = {
        "min-snr": snr.clamp(max=5),
        "soft-min-snr": 5 * snr / (5 + snr),
        "debiased": snr.sqrt(),
        "p2": snr / (1 + snr),
    }[weighting]
    by_hand = (of_picture * error.square().mean(dim=(1, 2, 3))).mean()
    assert_close(losses[0], by_hand)
    assert_close(losses[1], by_hand)


def test_huber_and_smooth_l1_are_the_numbers_worked_by_hand() -> None:
    a, r = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0.0, 3.0, -3.0, 0.75]).reshape(1, 2, 2, 1)
    huber = sized(r.square(), a, LossConfig(kind="huber", delta=4))
    assert_close(huber.flatten(), torch.tensor([0, 8, 8, 0.5576]), rtol=1e-3, atol=0)  # 2 * 4 * (5 - 4)
    smooth = sized(r.square(), a, LossConfig(kind="smooth-l1", delta=4))
    assert_close(smooth, huber / 4)
    assert_close(sized(r.square(), a, LossConfig(kind="smooth-l1", delta=1)).flatten()[3], torch.tensor(0.5))  # 5/4 - 1


def test_both_are_the_squared_error_where_errors_are_small_and_straight_where_they_are_large() -> None:
    a = torch.full((1, 1, 1, 1), 0.5)
    small, large = torch.full((1, 1, 1, 1), 1e-4), torch.full((1, 1, 1, 1), 1e4)
    huber, smooth = LossConfig(kind="huber"), LossConfig(kind="smooth-l1")  # delta absent: 0.1
    assert_close(sized(small.square(), a, huber), small.square())
    assert_close(sized(small.square(), a, smooth), small.square() / 0.1)
    assert_close(sized(large.square(), a, smooth), 2 * large, rtol=1e-4, atol=0)
    assert_close(sized(large.square(), a, huber), 0.2 * large, rtol=1e-4, atol=0)


def test_delta_falls_with_the_signal_as_sd_scripts_has_it() -> None:
    a = torch.tensor([1.0, 0.8, 0.5, 0.0]).reshape(4, 1, 1, 1)
    delta = delta_at(a, LossConfig(kind="huber", delta=0.2, delta_schedule="snr")).flatten()
    # sigma 0, 1/2, 1, infinite: 0.8 / (1 + sigma)^2 + 0.2
    assert_close(delta, torch.tensor([1.0, 0.8 / 2.25 + 0.2, 0.4, 0.2]))
    error = torch.full((4, 1, 2, 3), 3.0)
    sizes = sized(error.square(), a, LossConfig(kind="smooth-l1", delta=0.2, delta_schedule="snr"))
    assert_close(sizes[:, 0, 1, 2], 2 * ((9 + delta**2).sqrt() - delta))


def test_without_settings_the_loss_is_the_mean_squared_error_to_the_bit() -> None:
    random = torch.Generator().manual_seed(1)
    said, target = (torch.randn(1, 4, 3, 5, generator=random) for _ in range(2))
    a = torch.full((1, 1, 1, 1), 0.3)
    squared = squared_error(said, target)
    loss = diffusion_loss(sized(squared, a, LossConfig()), timestep_weight(a, "epsilon", LossConfig()))
    assert loss == mse_loss(said, target)
