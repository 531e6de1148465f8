"""A lack of memory: at a step the run ends with its own settings in the advice, at a sample it goes on."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainer.within_memory import train_within
from trainer.config import RunConfig
from trainer.config_errors import SETTINGS
from trainer.config_io import config_from
from trainer.events import Failed, Sampled, Saved, Warned, read_events
from trainer.memory_advice import TooLargeError, advice, memory_explained, smaller_settings, ways_to_fit
from trainer.run_dir import RunDir

Settings = Callable[..., RunConfig]
SETTING = re.compile(r"(\w+\.\w+) to (\w+)")


def test_the_advice_names_every_setting_that_helps_with_what_it_is_now(tiny_settings: Settings) -> None:
    large = tiny_settings(
        train__batch_size=4,
        train__accumulation=2,
        train__precision="fp32",
        data__resolution_px=1024,
        adapter__text_encoder=True,
        adapter__rank=64,
    )
    assert advice(large) == (
        "Close what else uses the memory. In the run's run.toml set train.checkpointing to true (it is false), then "
        "resume. In a new run set train.batch_size to 1 and train.accumulation to 8 (they are 4 and 2), set "
        "train.precision to bf16 (it is fp32), set train.checkpointing to true and model.bits to int8 (they are false "
        "and as-is), set data.resolution_px to 512 (it is 1024), set adapter.text_encoder to false (it is true), set "
        "adapter.rank to 8 (it is 64)."
    )
    half = tiny_settings(train__checkpointing=True, train__checkpointed="transformers", model__bits="int8")
    assert advice(half) == (
        "Close what else uses the memory. In the run's run.toml set train.checkpointed to all (it is transformers), "
        "then resume. Or choose a smaller base model."
    )
    least = tiny_settings(train__checkpointing=True, model__bits="int8")
    assert advice(least) == "Close what else uses the memory. Or choose a smaller base model."


def test_what_it_says_to_set_can_be_set_and_then_nothing_is_left_to_say(tiny_settings: Settings) -> None:
    config = tiny_settings(train__batch_size=4, data__resolution_px=1024, adapter__rank=64)
    pairs = [pair for change in smaller_settings(config) for pair in SETTING.findall(change.sentence)]
    assert {key for key, _ in pairs} <= SETTINGS.keys()
    followed = config_from(config.model_dump(mode="json", exclude_none=True), [f"{k}={v}" for k, v in pairs])
    assert followed.pictures_per_step == config.pictures_per_step
    assert smaller_settings(followed) == []


def test_ways_to_fit_are_taken_in_order_until_it_fits_and_those_that_save_nothing_are_left_out(
    tiny_settings: Settings,
) -> None:
    def peak(config: RunConfig) -> int:
        blocks = {"all": 100, "transformers": 300}[config.train.checkpointed] if config.train.checkpointing else 900
        return ((1000 if config.model.bits == "as-is" else 600) + blocks * config.train.batch_size) * 2**20

    config = tiny_settings(train__batch_size=2, train__precision="fp32")
    told = [
        [(list(change.values), saved // 2**20) for change, saved in ways_to_fit(config, peak, room * 2**20)]
        for room in (2800, 1600, 1200, 1100, 500)
    ]
    half, whole = (["train.checkpointing", "train.checkpointed"], 1200), (["train.checkpointing"], 1600)
    batch, bits = (["train.batch_size", "train.accumulation"], 100), (["model.bits"], 400)
    assert told == [[], [half], [whole], [whole, batch], [whole, batch, bits]]


def test_other_errors_pass_unchanged(tiny_settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"^something else$"), memory_explained(tiny_settings()):
        raise ValueError("something else")
    told = r"^The graphics card ran out of memory\. .* train\.checkpointing"
    with pytest.raises(TooLargeError, match=told), memory_explained(tiny_settings()):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on a process' memory is a thing of Linux")
def test_a_step_that_does_not_fit_ends_the_run_with_its_own_settings_in_the_advice(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    small = {"data__resolution_px": 256, "sample__size_px": (32, 32), "train__steps": 2}
    first = RunDir.create(tmp_path / "runs", tiny_settings(**small))  # what it caches needs no memory any more
    run = RunDir.create(tmp_path / "runs", tiny_settings(**small, train__batch_size=128))
    assert train_within(first, run, 192) == 1
    events = read_events(run.events_file)[0]
    assert [event.step for event in events if isinstance(event, Sampled | Saved)] == [0]
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert (failed.category, failed.sentence) == ("out of memory", "The computer ran out of memory.")
    assert "train.batch_size to 1 and train.accumulation to 128 (they are 128 and 1)" in failed.fix


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on a process' memory is a thing of Linux")
def test_samples_that_do_not_fit_are_left_out_and_the_training_goes_on(tmp_path: Path, tiny_settings: Settings) -> None:
    first = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2, sample__size_px=(32, 32)))
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2, sample__size_px=(2048, 2048)))
    assert train_within(first, run, 128) == 0
    events = read_events(run.events_file)[0]
    warnings = [event.text for event in events if isinstance(event, Warned)]
    assert warnings == [f"No samples of step {step}: The computer ran out of memory." for step in (0, 2)]
    assert events[-1].kind == "finished"
    assert list(run.samples_dir.iterdir()) == []
