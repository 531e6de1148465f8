"""Full fine-tuning as a kind of run: planned, trained, exported, merged and compared beside LoRA and DoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dora_core.files import read_adapter
from dora_core.spec import Kind
from tests.trainer.conftest import quick_settings, write_pictures
from trainer.adapter_source import open_source
from trainer.base_weights import open_base
from trainer.compare.comparison import compare
from trainer.compare.finished import exported
from trainer.compare.manifest import read_manifest
from trainer.compare.request import Request
from trainer.config_io import parse_config
from trainer.events import last_values, read_metrics
from trainer.home import Home
from trainer.merged_pipeline import export_merged
from trainer.plan import plan
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.store import Store

KINDS: tuple[Kind, ...] = ("lora", "dora", "full")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(Home(tmp_path_factory.mktemp("full") / "home"))


@pytest.fixture(scope="module")
def runs(store: Store, tiny_base: Callable[[str], Path]) -> dict[Kind, RunDir]:
    """One of each kind, two steps each, text encoder and all."""
    settings = quick_settings(tiny_base("sd1"), write_pictures(store.home.path / "pictures", [(32, 32), (40, 32)]))
    settings["train"] |= {"steps": 2}
    made: dict[Kind, RunDir] = {}
    for kind in KINDS:
        settings["adapter"] = {"kind": kind, "rank": 2, "text_encoder": True}
        made[kind] = RunDir.create(store.home.runs, parse_config(settings))
        run_training(made[kind])
    return made


def test_the_comparison_has_a_third_column(store: Store, runs: dict[Kind, RunDir]) -> None:
    request = Request(
        sources=tuple(run.id for run in runs.values()), prompts=("a thing",), steps=(1,), size_px=(32, 32)
    )
    manifest = read_manifest(compare(request, store))
    assert [column.kind for column in manifest.columns] == ["base", *KINDS]
    last = manifest.columns[-1]
    assert last.title == "tiny full fine-tune"
    assert (last.layout, last.consumer, last.ranks) == ("diff", "comfyui", ())
    assert last.headline is not None
    assert "ComfyUI renders all" in last.headline
    assert all(column.distance is not None and column.distance > 0 for column in manifest.columns[1:])
    assert [len(entry.layers) for entry in manifest.analysis] == [len(manifest.analysis[0].layers)] * 3


def test_the_file_and_the_merged_model_hold_what_was_trained(
    store: Store, runs: dict[Kind, RunDir], tmp_path: Path
) -> None:
    opened = open_source(runs["full"].id, None, store)
    file = read_adapter(runs["full"].path / exported(runs["full"]).file, opened.base.modules)
    merged = open_base(export_merged(opened.state, opened.base, tmp_path / "merged")).weights
    assert {name.partition(".")[0] for name in opened.state.layers} == {"unet", "text_encoder"}
    assert file.state.layers.keys() == opened.state.layers.keys()
    for name, layer in opened.state.layers.items():
        trained = layer.delta()
        assert trained.norm() > 0
        assert (file.state.layers[name].delta() - trained).norm() < 1e-3 * trained.norm()
        assert torch.equal(merged[name], (opened.base.weights[name].double() + trained).to(merged[name].dtype))


def test_its_steps_tell_how_far_each_block_has_moved(runs: dict[Kind, RunDir]) -> None:
    last = last_values(read_metrics(runs["full"].metrics_file)[0])[2]
    assert set(last.learning_rates) == {"unet.difference", "text_encoder.difference"}
    assert all(norm is not None and norm > 0 for norm in last.update_norms.values())
    assert last.magnitude_drift is None


def test_what_says_nothing_to_it_is_told(tiny_base: Callable[[str], Path], tmp_path: Path) -> None:
    settings = quick_settings(tiny_base("sd1"), write_pictures(tmp_path / "pictures", [(32, 32)] * 5))
    settings["adapter"] = {"kind": "full", "rank": 999, "dropout": 0.1}
    found = plan(parse_config(settings), Home(tmp_path))
    assert found.is_ready
    (told,) = [notice for notice in found.notices if "says nothing" in notice]
    assert told == "adapter.kind is full, to which adapter.rank, adapter.dropout says nothing"
    settings["adapter"] = {"kind": "dora", "rank": 2, "dropout": 0.1}
    assert not any("says nothing" in notice for notice in plan(parse_config(settings), Home(tmp_path)).notices)
