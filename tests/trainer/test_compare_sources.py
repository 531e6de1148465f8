"""What cannot be compared, told before a model is loaded: the base model here has nothing to draw with but its UNet."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dora_core.files import write_adapter
from dora_core.metadata import About
from tests.adapters import random_adapter, random_weights, small_modules
from tests.trainer.conftest import quick_settings
from trainer.base_weights import BaseModel, open_base
from trainer.compare.comparison import compare
from trainer.compare.finished import NothingExportedError
from trainer.compare.request import MAX_CELLS, Request, RequestError, parse_request
from trainer.compare.sources import told_apart
from trainer.config_io import parse_config
from trainer.events import EventLog, Exported, Finished, Phase, Started
from trainer.failures import ExplainedError, classify
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.store import Store

LAYERS = ["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q", "unet.mid_block.resnets.0.conv1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_base: Callable[[str], Path]) -> BaseModel:
    """A UNet without a VAE: loading it would fail with another error than those that are tested."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(tiny_base("sd1") / "unet", folder / "unet")
    return open_base(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Home(tmp_path / "home"))


def adapter(path: Path, base: BaseModel, about: About | None = None) -> Path:
    state = random_adapter({name: base.weights[name] for name in LAYERS}, "input")
    write_adapter(path, state, base.modules, about=about)
    return path


def run_of(store: Store, base: BaseModel, name: str = "x", **model: object) -> RunDir:
    settings = quick_settings(base.path, store.home.path)
    settings["name"] = name
    settings["model"] |= model
    return RunDir.create(store.home.runs, parse_config(settings))


def finished_run(store: Store, base: BaseModel, name: str = "x", **model: object) -> RunDir:
    run = run_of(store, base, name, **model)
    adapter(run.exports_dir / "x.safetensors", base)
    events = EventLog(run.events_file)
    events.append(Exported(file="exports/of-a-checkpoint.safetensors", headline=""))  # by a job, while it was stopped
    events.append(Phase(name="exporting", done=0, total=2))
    events.append(Exported(file="exports/x.safetensors", headline=""))
    events.append(Phase(name="exporting", done=1, total=2))
    events.append(Exported(file="exports/x-compensated.safetensors", headline=""))
    events.append(Finished(step=1))
    return run


def refused(store: Store, *sources: object, **words: object) -> str:
    """The sentence and the fix; nothing is left where the comparison would have been."""
    with pytest.raises((ExplainedError, ValueError)) as caught:
        compare(parse_request({"sources": list(map(str, sources)), **words}), store)
    assert not list(store.home.path.rglob("compare-*"))
    failure = classify(caught.value)
    assert failure.category in ("bad settings", "missing file", "bad model file")
    return f"{failure.sentence} {failure.fix}"


def test_names_of_nothing(store: Store, base: BaseModel) -> None:
    run = run_of(store, base)
    assert "sources" in refused(store)
    assert "There is no file gone.safetensors" in refused(store, "gone.safetensors")
    assert "gone" in refused(store, "gone")
    assert f"{run.id}@STEP" in refused(store, run.id)
    assert "no whole checkpoint of step 7" in refused(store, f"{run.id}@7")
    assert "there: none" in refused(store, f"{run.id}@step-000007")


def test_a_run_that_trains_on_counts_as_it_last_finished(store: Store, base: BaseModel) -> None:
    run = finished_run(store, base)
    EventLog(run.events_file).append(Started(steps=2, pid=1, create_time=2))
    EventLog(run.events_file).append(Phase(name="exporting"))
    EventLog(run.events_file).append(Exported(file="exports/later.safetensors", headline=""))
    (run.exports_dir / "x.safetensors").unlink()
    told = refused(store, run.id)
    assert "x.safetensors, which is gone" in told
    assert f"dora-studio export {run.id}" in told
    fresh = run_of(store, base, "fresh")
    EventLog(fresh.events_file).append(Exported(file="exports/later.safetensors", headline=""))
    with pytest.raises(NothingExportedError):
        compare(Request(sources=(fresh.id,)), store)


def test_files_of_another_family_or_of_no_adapter(store: Store, base: BaseModel, tmp_path: Path) -> None:
    modules = small_modules("sdxl")
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    state = random_adapter(random_weights(modules, [layer]), None)
    write_adapter(tmp_path / "xl.safetensors", state, modules)
    told = refused(store, tmp_path / "xl.safetensors", base=str(base.path), prompts=["a"])
    assert "Stable Diffusion XL" in told
    assert "Stable Diffusion 1" in told
    save_file(load_file(next((base.path / "unet").glob("*.safetensors"))), tmp_path / "unet.safetensors")
    refused(store, tmp_path / "unet.safetensors", base=str(base.path), prompts=["a"])


def test_files_without_a_base_model_or_a_prompt(store: Store, base: BaseModel, tmp_path: Path) -> None:
    file = adapter(tmp_path / "foreign.safetensors", base)
    assert "--base" in refused(store, file, prompts=["a"])
    assert "--prompt" in refused(store, file, base=str(base.path))


def test_files_made_on_another_base_model(store: Store, base: BaseModel, tmp_path: Path) -> None:
    there = str(base.path)
    one = adapter(tmp_path / "one.safetensors", base, About(base_model=there, base_model_sha256=base.sha256))
    other = adapter(tmp_path / "other.safetensors", base, About(base_model=there, base_model_sha256="0" * 64))
    told = refused(store, one, other, prompts=["a"])
    assert "other.safetensors was made on another base model" in told
    assert "--base" in told


def test_runs_that_differ_in_what_the_model_predicts(store: Store, base: BaseModel) -> None:
    one = finished_run(store, base, "one")
    other = finished_run(store, base, "other", prediction="v")
    assert "model.prediction" in refused(store, one.id, other.id)


def test_more_pictures_than_anybody_waits_for(store: Store, base: BaseModel) -> None:
    run = finished_run(store, base)
    seeds = list(range(MAX_CELLS // 2 + 1))
    told = refused(store, run.id, seeds=seeds)
    assert f"{2 * len(seeds)} pictures, {len(seeds)} rows by 2 columns" in told
    assert f"the limit is {MAX_CELLS}" in told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"strengths": [float("nan")]}, "strengths.0"),
        ({"strengths": []}, "strengths"),
        ({"strengths": [40]}, "40"),
        ({"steps": [0]}, "steps.0"),
        ({"guidance": ["much"]}, "much"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"size_px": [33, 64]}, "size_px.0"),
        ({"strength": [1]}, "strength"),
    ],
)
def test_values_that_are_none(store: Store, words: dict[str, object], named: str) -> None:
    told = refused(store, "x", **words)
    assert named in told
    assert "--help" in told


def test_a_run_without_prompts_and_pictures_asks_for_a_prompt(store: Store, base: BaseModel) -> None:
    run = finished_run(store, base)
    text = run.config_file.read_text(encoding="utf-8").replace('"a sks thing"', '""')
    run.config_file.write_text(text, encoding="utf-8")
    assert "--prompt" in refused(store, run.id)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_nobody_may_write_to(store: Store, base: BaseModel) -> None:
    run = finished_run(store, base)
    run.grids_dir.chmod(0o500)
    with pytest.raises(PermissionError) as caught:
        compare(Request(sources=(run.id,)), store)
    assert classify(caught.value).category == "no permission"


def test_a_file_where_the_folder_should_be(store: Store, base: BaseModel) -> None:
    run = finished_run(store, base)
    run.grids_dir.rmdir()
    run.grids_dir.write_bytes(b"")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        compare(Request(sources=(run.id,)), store)


def test_the_same_title_is_numbered() -> None:
    assert told_apart(["a", "b", "a", "a"]) == ["a (1)", "b", "a (2)", "a (3)"]


def test_a_command_keeps_words_as_they_are() -> None:
    request = Request(
        sources=("r",), prompts=("it's -- a", "--help"), strengths=(0.1 + 0.2, -1, -1.0), size_px=(64, 72)
    )
    command = request.command(("my run",))
    assert command == (
        "dora-studio compare --strength=0.30000000000000004 --strength=-1 '--prompt=it'\"'\"'s -- a' "
        "--prompt=--help --size 64 72 -- 'my run'"
    )
    with pytest.raises(RequestError):
        parse_request({"sources": []})
