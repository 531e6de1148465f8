"""What a step draws: laws that hold whatever is drawn, numbers worked by hand, and nothing changed by what is off."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch.testing import assert_close

from trainer.config_learning import NoiseConfig
from trainer.noise import draw, draw_timesteps, mode_shares, offset_noise, pyramid_noise, timestep_bounds
from trainer.seeds import generator

SHAPE = torch.Size((3, 4, 6, 10))
NAMES = (7, 2, 0, "instance", "noise")


def test_switched_off_a_step_draws_what_it_always_drew() -> None:
    drawn = draw(SHAPE, 1000, NoiseConfig(), *NAMES)
    random = generator(*NAMES)
    assert torch.equal(drawn.noise, torch.randn(SHAPE, generator=random))
    assert torch.equal(drawn.timesteps, torch.randint(0, 1000, (3,), generator=random))
    assert drawn.perturbation is None


def test_each_kind_of_noise_leaves_what_the_others_draw_as_it_was() -> None:
    plain = draw(SHAPE, 1000, NoiseConfig(), *NAMES)
    offset = draw(SHAPE, 1000, NoiseConfig(offset=0.1), *NAMES)
    everything = draw(SHAPE, 1000, NoiseConfig(offset=0.1, pyramid=0.3, perturbation=0.2), *NAMES)
    narrow = draw(SHAPE, 1000, NoiseConfig(timesteps="mode", timestep_range=(0.1, 0.3)), *NAMES)
    assert torch.equal(plain.timesteps, everything.timesteps)
    assert torch.equal(plain.noise, narrow.noise)
    pyramid = draw(SHAPE, 1000, NoiseConfig(pyramid=0.3), *NAMES)
    assert_close(everything.noise - pyramid.noise, offset.noise - plain.noise)
    again = draw(SHAPE, 1000, NoiseConfig(offset=0.1, pyramid=0.3, perturbation=0.2), *NAMES)
    assert torch.equal(everything.noise, again.noise)
    assert everything.perturbation is not None
    assert again.perturbation is not None
    assert torch.equal(everything.perturbation, again.perturbation)
    other = draw(SHAPE, 1000, NoiseConfig(offset=0.1, pyramid=0.3, perturbation=0.2), 7, 3, 0, "instance", "noise")
    assert not torch.equal(everything.noise, other.noise)


def test_offset_adds_one_value_per_picture_and_channel() -> None:
    noise = torch.randn(SHAPE, generator=generator("a"))
    added = offset_noise(noise, 0.25, generator("b")) - noise
    assert_close(added, added[:, :, :1, :1].expand(SHAPE))
    assert_close(added[:, :, 0, 0], 0.25 * torch.randn(3, 4, 1, 1, generator=generator("b"))[:, :, 0, 0])


def test_perturbation_is_as_strong_as_asked_and_apart_from_the_noise() -> None:
    drawn = draw(torch.Size((1, 4, 60, 70)), 1000, NoiseConfig(perturbation=0.1), *NAMES)
    assert drawn.perturbation is not None
    assert float(drawn.perturbation.std()) == pytest.approx(0.1, rel=0.02)
    together = torch.stack([drawn.perturbation.flatten(), drawn.noise.flatten()])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 0.03


def test_pyramid_is_coarser_noise_on_top_at_unit_spread() -> None:
    noise = torch.zeros(1, 1, 2, 2)
    noise[0, 0, 0] = 2.0
    level = torch.randn(1, 1, 1, 1, generator=generator("p"))  # two by two has one coarser level, of one pixel
    by_hand = noise + 0.5 * level
    assert_close(pyramid_noise(noise, 0.5, generator("p")), by_hand / math.sqrt(4 / 3))  # values 2, 2, 0, 0
    large = torch.randn(2, 4, 33, 64, generator=generator("q"))
    made = pyramid_noise(large, 0.6, generator("p"))
    assert_close(made.std(dim=(1, 2, 3)), torch.ones(2))
    coarse = [torch.nn.functional.avg_pool2d(x, 8).std() for x in (large, made)]
    assert coarse[1] > 1.5 * coarse[0]


@pytest.mark.parametrize(
    ("span", "bounds"),
    [((0.0, 1.0), (0, 1000)), ((0.0, 0.3), (0, 300)), ((0.75, 1.0), (750, 1000)), ((1 - 1e-9, 1.0), (999, 1000)),
     ((0.5, 0.5001), (500, 501))],
)  # fmt: skip
def test_a_range_has_its_share_of_the_schedule_and_at_least_one_timestep(
    span: tuple[float, float], bounds: tuple[int, int]
) -> None:
    assert timestep_bounds(1000, NoiseConfig(timestep_range=span)) == bounds


@pytest.mark.parametrize("timesteps", ["uniform", "logit-normal", "mode"])
def test_no_timestep_is_outside_of_the_range_and_all_in_it_can_come(timesteps: str) -> None:
    noise = NoiseConfig.model_validate({"timesteps": timesteps, "timestep_range": (0.2, 0.7)})
    drawn = draw_timesteps(4000, 20, noise, generator("t"))
    assert set(drawn.tolist()) == set(range(4, 14))


def test_logit_normal_has_its_quartiles() -> None:
    noise = NoiseConfig(timesteps="logit-normal", timestep_location=-0.5, timestep_scale=1.5)
    drawn = draw_timesteps(20_000, 1000, noise, generator("t")).double() / 1000
    normal = statistics.NormalDist(-0.5, 1.5)
    for share in (0.25, 0.5, 0.75):
        by_hand = 1 / (1 + math.exp(-normal.inv_cdf(share)))
        assert float(drawn.quantile(share)) == pytest.approx(by_hand, abs=0.01)


def test_mode_is_the_numbers_worked_by_hand_and_favours_the_middle() -> None:
    # u = 1/3: cos^2(pi/6) = 3/4, so 2/3 - s (3/4 - 2/3)
    shares = mode_shares(torch.tensor([0.0, 1 / 3, 0.5, 1.0]), 1.2)
    assert_close(shares, torch.tensor([1.0, 2 / 3 - 0.1, 0.5, 0.0]), atol=1e-6, rtol=0)
    drawn = draw_timesteps(4000, 1000, NoiseConfig(timesteps="mode"), generator("t"))
    middle = ((drawn >= 400) & (drawn < 600)).float().mean()
    assert middle > 0.3  # a fifth, were it uniform
