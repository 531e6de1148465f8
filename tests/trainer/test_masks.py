"""Masks: found by name or in the alpha channel, turned and sized as their pictures; what is wrong with them is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image

from trainer.data.buckets import Bucket, Placement
from trainer.data.dataset import pixel_weights
from trainer.data.masks import find_masks, open_mask
from trainer.data.scan import scan


def half_white(size: tuple[int, int], mode: str = "L") -> Image.Image:
    """Left half black, right half white."""
    mask = Image.new(mode, size)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(folder / name)
    return folder


def test_masks_of_a_folder_belong_to_pictures_of_the_same_name(pictures: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    half_white((64, 48)).save(masks / "a.jpg", quality=95)
    half_white((64, 48), "1").save(masks / "b.png")
    found = find_masks(scan(pictures), str(masks))
    assert {path.name: mask.path.name for path, mask in found.by_picture.items()} == {
        "a.png": "a.jpg",
        "b.jpg": "b.png",
    }
    assert [path.name for path in found.missing] == ["c.png"]
    assert found.problems == ()


def test_what_is_wrong_with_a_mask_is_told_by_its_name(pictures: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    half_white((48, 64)).save(masks / "a.png")
    Image.new("L", (64, 48)).save(masks / "b.png")
    (masks / "c.png").write_bytes(b"no picture")
    found = find_masks(scan(pictures), str(masks))
    assert found.by_picture == {}
    assert list(found.problems) == [
        "the mask a.png is 48x64, a.png 64x48: make both the same size",
        "the mask of b.jpg leaves nothing of it: draw it anew, or take the picture out",
        "the mask c.png cannot be read: save it as PNG",
    ]
    assert "there is no folder" in find_masks(scan(pictures), str(tmp_path / "nowhere")).problems[0]


def test_the_alpha_channel_is_a_mask_turned_like_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: what is right goes to the bottom
    picture = Image.new("RGBA", (64, 48), (9, 9, 9, 255))
    picture.putalpha(half_white((64, 48)))
    picture.save(tmp_path / "turned.png", exif=exif)
    Image.new("RGB", (64, 48)).save(tmp_path / "whole.png")
    found = find_masks(scan(tmp_path), "alpha")
    (mask,) = found.by_picture.values()
    assert mask.size == (48, 64)
    opened = open_mask(mask)
    assert (opened.getpixel((20, 5)), opened.getpixel((20, 60))) == (0, 255)
    assert [path.name for path in found.missing] == ["whole.png"]


@pytest.mark.parametrize(("outside", "low", "high"), [(0.0, 0.0, 2.0), (0.5, 2 / 3, 4 / 3)])
def test_pixel_weights_are_the_masks_mean_over_each_latent_with_mean_one(
    tmp_path: Path, outside: float, low: float, high: float
) -> None:
    # half black, half white, 4 x 3 latents: two columns of 0, two of 1; divided by the mean, (1 + outside) / 2
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    half_white((64, 48)).save(masks / "a.png")
    (mask,) = find_masks(scan(tmp_path), str(masks)).by_picture.values()
    weights = pixel_weights(mask, outside, Placement(Bucket(32, 24), (32, 24), 0, 0))
    assert weights.shape == (1, 3, 4)
    torch.testing.assert_close(weights[0], torch.tensor([[low, low, high, high]] * 3))
    mirrored = pixel_weights(mask, outside, Placement(Bucket(32, 24), (32, 24), 0, 0, is_mirrored=True))
    torch.testing.assert_close(mirrored, weights.flip(2))
    dark = pixel_weights(mask, 0.0, Placement(Bucket(16, 24), (32, 24), 0, 0))
    assert torch.equal(dark, torch.zeros(1, 3, 2))  # a cut with nothing of the mask counts nowhere
