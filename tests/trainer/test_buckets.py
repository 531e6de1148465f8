"""Buckets: sizes that the model can train at, and the way of each picture into one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.buckets import Bucket, Placement, make_buckets, place, variants

SETTINGS = [
    (512, 64, 2.0),
    (1024, 64, 2.0),
    (768, 32, 4.0),
    (64, 8, 2.0),
    (64, 64, 4.0),
    (500, 24, 3.0),
    (32, 256, 1.0),
]


@pytest.mark.parametrize(("resolution", "step", "ratio"), SETTINGS)
def test_buckets_are_multiples_of_the_step_with_no_more_pixels_than_asked(
    resolution: int, step: int, ratio: float
) -> None:
    buckets = make_buckets(resolution, step, ratio)
    assert len(set(buckets)) == len(buckets)
    for bucket in buckets:
        assert bucket.width % step == bucket.height % step == 0
        assert bucket.width * bucket.height <= max(resolution, step) ** 2
        assert max(bucket.width / bucket.height, bucket.height / bucket.width) <= ratio
        assert Bucket(bucket.height, bucket.width) in buckets


def test_the_buckets_of_512_are_the_ones_worked_out_by_hand() -> None:
    # eights of 64: 8 x 8, then the longest that keeps the area for each shorter side, up to 2 : 1
    halves = [Bucket(8 * 64, 8 * 64), Bucket(9 * 64, 7 * 64), Bucket(10 * 64, 6 * 64)]
    assert set(make_buckets(512, 64, 2.0)) == {*halves, *(Bucket(b.height, b.width) for b in halves)}


def test_a_ratio_of_one_leaves_the_square() -> None:
    assert make_buckets(512, 64, 1.0) == (Bucket(512, 512),)


@settings(deadline=None)
@given(width=st.integers(1, 6000), height=st.integers(1, 6000), setting=st.sampled_from(SETTINGS))
def test_every_picture_has_a_place_that_it_covers(width: int, height: int, setting: tuple[int, int, float]) -> None:
    buckets = make_buckets(*setting)
    placement = place(width, height, buckets)
    bucket, (scaled_width, scaled_height) = placement.bucket, placement.scaled
    assert bucket in buckets
    assert 0 <= placement.left <= scaled_width - bucket.width
    assert 0 <= placement.top <= scaled_height - bucket.height
    assert scaled_width == bucket.width or scaled_height == bucket.height
    assert 0 < placement.kept <= 1
    nearest = min(abs(math.log(b.width * height / (b.height * width))) for b in buckets)
    assert abs(math.log(bucket.width * height / (bucket.height * width))) == pytest.approx(nearest, abs=1e-12)


@settings(deadline=None)
@given(bucket=st.sampled_from(make_buckets(512, 64, 2.0)), factor=st.integers(1, 9))
def test_a_picture_of_a_buckets_shape_is_only_scaled(bucket: Bucket, factor: int) -> None:
    placement = place(bucket.width * factor, bucket.height * factor, make_buckets(512, 64, 2.0))
    assert (placement.bucket, placement.scaled, placement.kept) == (bucket, (bucket.width, bucket.height), 1)


def test_the_cut_is_in_the_middle() -> None:
    placement = place(1000, 500, [Bucket(64, 64)])
    assert (placement.scaled, placement.left, placement.top) == ((128, 64), 32, 0)
    assert placement.kept == 0.5


def test_cuts_are_moved_along_the_longer_side_from_end_to_end_and_the_plain_one_comes_first() -> None:
    wide = place(1040, 500, [Bucket(64, 64)])  # scaled to 133 x 64: 69 pixels to spare
    assert [(cut.left, cut.top) for cut in variants(wide, True, False)] == [(34, 0), (0, 0), (17, 0), (51, 0), (69, 0)]
    assert variants(wide, False, False) == (wide,)
    assert wide == variants(wide, True, True)[0]
    square = place(500, 500, [Bucket(64, 64)])
    assert variants(square, True, False) == (square,)  # nothing to spare


def test_mirrored_ones_are_the_same_cuts_of_the_mirrored_picture() -> None:
    tall = Placement(Bucket(64, 48), (64, 58), 0, 5)
    shown = variants(tall, True, True)
    assert [(cut.top, cut.is_mirrored) for cut in shown[:5]] == [(top, False) for top in (5, 0, 2, 7, 10)]
    assert [(cut.top, cut.is_mirrored) for cut in shown[5:]] == [(top, True) for top in (5, 0, 2, 7, 10)]
