"""Ranks by layer: what is injected, at which scale, and what becomes of it in the exported file."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dora_core.layers import LoraLayer
from dora_core.state import LayerWeights
from tests.trainer.test_loop import built
from trainer.checkpoints import ADAPTER, read_state
from trainer.config import RunConfig
from trainer.run_dir import RunDir
from trainer.session import run_training

Settings = Callable[..., RunConfig]
RANKS = {"*.attn2.*": 2, "*.attn2.to_k": 5, "*.attn1.to_v": 1}  # the last match counts


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({}, {3: 1, 2: 1, 5: 1, 1: 1}),
        ({"alpha": 6.0}, {3: 2, 2: 2, 5: 2, 1: 2}),  # alpha / rank is that of all others
        ({"alpha": 6.0, "rank_stabilised": True}, {3: 6 / sqrt(3), 2: 6 / sqrt(2), 5: 6 / sqrt(5), 1: 6}),
        ({"rank_stabilised": True}, {3: sqrt(3), 2: 3 / sqrt(2), 5: 3 / sqrt(5), 1: 3}),  # alpha is the rank, 3
    ],
)
def test_every_layer_has_its_rank_and_the_scale_of_that_rank(
    tmp_path: Path, tiny_settings: Settings, settings: dict[str, Any], scales: dict[int, float]
) -> None:
    adapter = {"rank": 3, "ranks": RANKS, "text_encoder": True, **settings}
    _, training = built(tmp_path, tiny_settings(adapter=adapter))
    for part, own in training.adapters.items():
        for name, layer in own.layers.items():
            wanted = 5 if name.endswith("attn2.to_k") else 2 if "attn2" in name else 1 if name.endswith("to_v") else 3
            assert layer.rank == (wanted if part == "unet" else 3)  # the globs are about the UNet
            assert isinstance(layer, LoraLayer)
            assert layer.scale == pytest.approx(scales[layer.rank])


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_exported_file_has_the_ranks_and_means_the_same_rank_stabilised_too(
    tmp_path: Path, tiny_settings: Settings, kind: str
) -> None:
    """The parity check has passed, or there would be no file; the updates are compared here as well."""
    adapter = {"kind": kind, "rank": 3, "ranks": RANKS, "alpha": 4.0, "rank_stabilised": True}
    run = RunDir.create(tmp_path / "runs", tiny_settings(adapter=adapter, train__steps=2))
    assert run_training(run) == "finished"
    exported = load_file(run.exports_dir / f"tiny-{kind}.safetensors")
    state = read_state(run.checkpoints_dir / "step-000002" / ADAPTER)
    ranks = set()
    for name, layer in state.layers.items():
        assert isinstance(layer, LayerWeights)
        key = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
        down, up = (exported[f"{key}.lora_{part}.weight"].float().flatten(1) for part in ("down", "up"))
        update = float(exported[f"{key}.alpha"]) / len(down) * up @ down
        rank = len(layer.down)
        wanted = 4 / sqrt(rank) * layer.up.flatten(1) @ layer.down.flatten(1)
        assert torch.dist(update, wanted) < 1e-3 * wanted.norm()  # the file is in float16
        assert len(down) == rank
        ranks.add(rank)
    assert ranks == {1, 2, 3, 5}
