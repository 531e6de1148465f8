"""How the starter is made: interrupted work goes on exactly, finished work is left alone, failures are one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

STARTER = Path(__file__).resolve().parents[2] / "assets" / "starter"
sys.path.insert(0, str(STARTER))

from recipe import captions, data, limit, training, unet, vae  # noqa: E402 - the folder is not an installed package
from recipe.files import Failure, save, written_whole  # noqa: E402
from recipe.profile import COLOURS, PROFILES, Workshop  # noqa: E402

TINY = replace(
    PROFILES["cpu"],
    picture_px=32,
    concepts=6,
    latent_channels=4,
    vae_channels=(8, 8, 16, 16),
    vae_batch=2,
    vae_steps=6,
    unet_channels=(16, 32),
    text_width=16,
    text_layers=1,
    unet_batch=3,
    unet_steps=6,
)


def run_build(*arguments: str, work: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(STARTER / "build.py"), *arguments, "--work", str(work)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """Eight things of random colours in both styles, as the stage `render` leaves them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(5)
    for style in data.STYLES:
        np.save(
            folder / f"{style}.npy", random.integers(0, 256, (8, data.RENDER_PX, data.RENDER_PX, 4), dtype=np.uint8)
        )
    groups = [*data.GROUPS, "Food & Drink", "Animals & Nature"]
    concepts = [{"name": f"thing {i}", "group": g, "flat": "x", "solid": "y"} for i, g in enumerate(groups)]
    (folder / "concepts.json").write_text(json.dumps(concepts))
    return Workshop(TINY, tmp_path, tmp_path / "assets", seed=1)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["average"]


class Killed(Exception):
    pass


def test_a_stage_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    vae.train_vae(shop)
    straight = weights(shop.work / "vae.pt")
    (shop.work / "vae.pt").unlink()

    def save_twice_then_die(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["step"] == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(training, "save", save_twice_then_die)
        with pytest.raises(Killed):
            vae.train_vae(shop)
    vae.train_vae(shop)
    resumed = weights(shop.work / "vae.pt")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_denoiser_learns_from_compositions_and_a_finished_stage_is_left_alone(shop: Workshop) -> None:
    captions.train_tokenizer(shop)
    vae.train_vae(shop)
    before = torch.nn.utils.parameters_to_vector(unet.build_unet(TINY).parameters()).numel()
    model = unet.train_unet(shop)
    assert sum(p.numel() for p in model["unet"].parameters()) == before
    stamp = (shop.work / "unet.pt").stat().st_mtime_ns
    unet.train_unet(shop)
    assert (shop.work / "unet.pt").stat().st_mtime_ns == stamp


def test_the_latents_have_unit_spread_and_every_thing_stands_on_every_colour(shop: Workshop) -> None:
    captions.train_tokenizer(shop)
    vae.train_vae(shop)
    made = unet.encode_compositions(shop)
    assert made.latents.shape == (len(unet.learned_things(data.Pictures.load(shop.work), TINY)), len(COLOURS), 4, 4, 4)
    assert made.latents.std().item() == pytest.approx(1, abs=0.25)
    assert made.with_colour.unique(dim=0).shape[0] == made.latents.shape[0]


def test_the_limit_is_learned_without_the_things_that_it_is_measured_by(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "STEPS", 2)
    for folder, thing in zip(limit.SETS, ("thing 1", "thing 6"), strict=True):
        pair = shop.assets / "samples" / folder / "01"
        pair.parent.mkdir(parents=True)
        for style, colour in zip(data.STYLES, ("teal", "pink"), strict=True):
            Image.new("RGB", (64, 64), colour).save(pair.with_suffix(f".{style}.jpg"))
        pair.with_suffix(".txt").write_text(f"a {thing} on a teal background, 3d style")
    learned: list[dict[str, torch.Tensor]] = []
    for changed in ((), (1, 6), (2,)):
        (shop.work / "limit.pt").unlink(missing_ok=True)
        solid = np.load(shop.work / "pictures" / "3d.npy")
        solid[list(changed)] = 0
        np.save(shop.work / "pictures" / "3d.npy", solid)
        limit.limit(shop)
        learned.append(weights(shop.work / "limit.pt"))
    first, without_measured, without_another = learned
    assert all(torch.equal(without_measured[name], value) for name, value in first.items())
    assert any(not torch.equal(without_another[name], value) for name, value in first.items())
    (shop.assets / "samples" / "selection" / "01.txt").write_text("a stranger on a teal background, 3d style")
    with pytest.raises(Failure, match="run the stage `samples` again"):
        limit.limit(shop)


def test_the_same_seed_and_step_give_the_same_pictures_and_another_step_gives_others(shop: Workshop) -> None:
    pictures = data.Pictures.load(shop.work)
    first, again, other = (
        vae.augmented(pictures, [0, 3, 5], 32, training.generator(seed, step))
        for seed, step in ((4, 9), (4, 9), (4, 10))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_thing_over_a_colour_is_the_colour_where_the_thing_is_clear(shop: Workshop) -> None:
    pictures = data.Pictures.load(shop.work)
    pictures.flat[2, 3] = 0
    drawn = pictures.draw("flat", 2, (255, 0, 51), 32)
    assert torch.allclose(drawn.mean((1, 2)), torch.tensor([1.0, -1.0, -0.6]), atol=1e-6)


def test_the_learning_rate_warms_up_stays_and_ends_low() -> None:
    rates = [training.rate_factor(step, 1000) for step in range(1000)]
    assert rates[0] == 0.01
    assert rates[99] == rates[750] == 1.0
    assert rates[875] == pytest.approx(0.5)
    assert rates[999] == 0.01


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("tiger", "a tiger"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass done", "an hourglass done"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("face with crossed-out eyes", "a face with crossed-out eyes"),
        ("x-ray", "an x-ray"),
    ],
)
def test_captions_use_the_article_that_english_does(name: str, phrase: str) -> None:
    assert data.Concept(name, "Objects", "", "").phrase == phrase


def test_without_npm_fetch_says_what_to_install(tmp_path: Path) -> None:
    done = run_build("fetch", work=tmp_path, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "npm was not found: install Node.js" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm to fail in")
def test_without_a_network_fetch_says_so_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    done = run_build(
        "fetch", work=tmp_path, npm_config_registry="http://127.0.0.1:9/", npm_config_fetch_retries="0",
        npm_config_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "check the network connection" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "cpu" / "packages").exists()


def test_a_changed_package_layout_names_the_missing_file(tmp_path: Path) -> None:
    for name in data.PACKAGES:
        folder = data.package_folder(tmp_path, name)
        folder.mkdir(parents=True)
        (folder / "package.json").touch()
    with pytest.raises(Failure, match=r"data-by-emoji\.json is missing: the package's layout has changed"):
        data.render(Workshop(TINY, tmp_path, tmp_path))
    assert not (tmp_path / "pictures").exists()


def test_a_stage_without_the_one_before_it_says_which_to_run(tmp_path: Path) -> None:
    done = run_build("vae", work=tmp_path)
    assert done.returncode == 1
    assert "run the stage `render` first" in done.stderr


def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of a file's size are POSIX")
    target = tmp_path / "weights.pt"
    save(target, {"step": 1})
    old = target.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(Failure, match="the disk is full while writing"):
            save(target, {"step": 2, "model": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == old
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with written_whole(tmp_path / "new", folder=True) as temporary:
            (temporary / "half").touch()
            raise Killed

    with pytest.raises(Killed):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
