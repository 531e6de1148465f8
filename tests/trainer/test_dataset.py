"""Order of the data and the pixels that are trained on."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer.build import load_examples
from trainer.config import RunConfig
from trainer.config_data import ImageSetConfig
from trainer.data.buckets import Bucket, Placement, variants
from trainer.data.dataset import BatchOrder, Dataset, Example, View, bucket_groups, pixels
from trainer.data.scan import Picture, scan
from trainer.run_dir import RunDir
from trainer.session import run_training

GROUPS = ((0, 3, 4, 7, 8), (1, 2), (5,), (6, 9, 10, 11))
ORDER = BatchOrder(GROUPS, batch_size=3, seed=7, purpose="instance")


def one_pass(order: BatchOrder, number: int) -> list[tuple[int, ...]]:
    return [order.batch(number * order.batches_per_pass + i) for i in range(order.batches_per_pass)]


def test_a_pass_has_every_picture_and_fills_batches_up_from_their_own_bucket() -> None:
    assert ORDER.batches_per_pass == 2 + 1 + 1 + 2
    for number in range(3):
        batches = one_pass(ORDER, number)
        assert {len(batch) for batch in batches} == {3}
        assert all(any(set(batch) <= set(group) for group in GROUPS) for batch in batches)
        seen = Counter(index for batch in batches for index in batch)
        assert seen.keys() == set(range(12))
        for group in GROUPS:  # nobody is shown twice more often than another of the same bucket
            assert max(seen[i] for i in group) - min(seen[i] for i in group) <= 1


def test_the_order_follows_from_seed_pass_and_purpose_alone() -> None:
    again = BatchOrder(GROUPS, 3, 7, "instance")
    assert one_pass(again, 2) == one_pass(ORDER, 2)
    others = [
        one_pass(ORDER, 3),
        one_pass(BatchOrder(GROUPS, 3, 8, "instance"), 2),
        one_pass(BatchOrder(GROUPS, 3, 7, "prior"), 2),
    ]
    assert all(other != one_pass(ORDER, 2) for other in others)


def test_batches_of_one_show_each_picture_once_in_a_pass() -> None:
    order = BatchOrder(GROUPS, 1, 0, "instance")
    assert sorted(one_pass(order, 5)) == [(i,) for i in range(12)]


def test_pixels_are_scaled_cut_and_in_minus_one_to_one(tmp_path: Path) -> None:
    # left half black, right half white; scaled to 64x32, the cut begins 8 pixels left of the middle of the white
    file = tmp_path / "halves.png"
    picture = Image.new("RGB", (128, 64))
    picture.paste((255, 255, 255), (64, 0, 128, 64))
    picture.save(file)
    at = Placement(Bucket(32, 24), scaled=(64, 32), left=24, top=4)
    example = Example(scan(tmp_path).pictures[0], "halves", (at,), ImageSetConfig(folder=tmp_path))
    values = pixels(example, at, "#ffffff")
    assert values.shape == (3, 24, 32)
    assert torch.all(values[:, :, :6] == -1)
    assert torch.all(values[:, :, 10:] == 1)
    framing = example.framing(at)
    assert (framing.original_px, framing.crop_px, framing.size_px) == ((128, 64), (24, 4), (32, 24))


def test_examples_are_grouped_by_the_size_they_are_trained_at_and_repeated_in_their_group(tmp_path: Path) -> None:
    def example(name: str, bucket: Bucket, repeats: int) -> Example:
        picture = Picture(Path(name), name, 40, 40, "RGB", False, False, False)
        settings = ImageSetConfig(folder=tmp_path, repeats=repeats)
        return Example(picture, name, (Placement(bucket, (bucket.width, bucket.height), 0, 0),), settings)

    square, long = Bucket(32, 32), Bucket(48, 24)
    examples = [example("a", square, 1), example("b", long, 2), example("c", square, 3), example("d", long, 1)]
    assert bucket_groups(examples) == ((0, 2, 2, 2), (1, 1, 3))


def test_a_mirrored_picture_is_mirrored_before_it_is_cut_and_the_unet_is_told_where(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (24, 80, 3), generator=random, dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(tmp_path / "a.png")
    at = Placement(Bucket(32, 24), scaled=(80, 24), left=10, top=0)
    example = Example(scan(tmp_path).pictures[0], "", (at,), ImageSetConfig(folder=tmp_path))
    mirrored = replace(at, is_mirrored=True)
    opposite = replace(at, left=80 - 32 - 10)  # what the mirrored cut shows, the other way round
    assert torch.equal(pixels(example, mirrored, "#ffffff"), pixels(example, opposite, "#ffffff").flip(2))
    assert example.framing(mirrored).crop_px == (10, 0)


def made(folder: Path, **settings: Any) -> Dataset:
    """Two wide pictures, each with ten views that differ in their numbers, and captions with tags."""
    one = ImageSetConfig(folder=folder, flip=True, crop_jitter=True, **settings)
    middle = Placement(Bucket(32, 24), scaled=(80, 24), left=24, top=0)
    shown = variants(middle, True, True)
    pictures = [Picture(Path(name), name, 80, 24, "RGB", False, False, False) for name in ("a", "b")]
    examples = tuple(Example(picture, "one, two, three", shown, one) for picture in pictures)
    views = tuple(
        tuple(View(torch.full((4, 3, 4), 10.0 * i + j), torch.ones(1, 3, 4)) for j in range(len(shown)))
        for i in range(len(pictures))
    )
    return Dataset("instance", examples, views, BatchOrder(bucket_groups(examples), 3, 7, "instance"))


def test_every_view_comes_as_often_and_with_its_own_framing(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    seen: Counter[int] = Counter()
    for number in range(200):
        batch = dataset.batch(number)
        for latents, framing, name in zip(batch.latents, batch.framings, batch.names, strict=True):
            picture, view = divmod(int(latents[0, 0, 0]), 10)
            assert name == "ab"[picture]
            assert framing.crop_px == (dataset.examples[picture].placements[view].left, 0)
            seen[view] += 1
    assert set(seen) == set(range(10))
    assert max(seen.values()) < 2 * min(seen.values())


def test_what_a_batch_shows_follows_from_its_number_seed_and_purpose_alone(tmp_path: Path) -> None:
    options = {"shuffle_tags": True, "tag_dropout": 0.3, "caption_dropout": 0.1}
    dataset, again = made(tmp_path, **options), made(tmp_path, **options)
    batches = [again.batch(number) for number in reversed(range(20))]
    for number, batch in enumerate(reversed(batches)):
        same = dataset.batch(number)
        assert same.captions == batch.captions
        assert torch.equal(same.latents, batch.latents)
    for other in (
        replace(dataset, order=replace(dataset.order, seed=8)),
        replace(dataset, purpose="prior", order=replace(dataset.order, purpose="prior")),
    ):
        assert [other.batch(n).captions for n in range(20)] != [dataset.batch(n).captions for n in range(20)]
    assert len({caption for number in range(20) for caption in dataset.batch(number).captions}) > 8


def test_a_plain_batch_has_nothing_of_chance(tmp_path: Path) -> None:
    dataset = made(tmp_path, trigger="zxc", shuffle_tags=True, caption_dropout=1)
    batch = dataset.plain_batch([0, 1, 0])
    assert batch.captions == ("zxc, one, two, three",) * 3
    assert batch.latents[:, 0, 0, 0].tolist() == [0, 10, 0]


ODD_NAMES = ["<img onerror=alert(1)>", "${alert(1)} {{x}}", "emoji 🦊", "new\nline", os.fsdecode(b"\xff"), "n" * 200]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_pictures_of_any_name_are_trained_with_the_captions_beside_them(
    tmp_path: Path, tiny_settings: Callable[..., RunConfig]
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"number {number}")
    config = tiny_settings(data__folder=str(folder), data__instance_prompt="", train__steps=2, train__batch_size=6)
    captions = {example.picture.path.stem: example.caption for example in load_examples(config.data)}
    assert captions == {name: f"number {number}" for number, name in enumerate(ODD_NAMES)}
    assert run_training(RunDir.create(tmp_path / "runs", config)) == "finished"
