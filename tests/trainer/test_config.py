"""The declarations of the settings: each complete, each rule between settings with a way out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dora_core.families import TEXT_ENCODER_TARGETS, UNET_TARGETS
from trainer.config import RunConfig, renewed
from trainer.config_errors import SETTINGS, ConfigError
from trainer.config_io import parse_config
from trainer.config_learning import ScheduleConfig
from trainer.config_sections import AdapterConfig
from trainer.optimizers import OPTIMIZERS

LEAST: Mapping[str, Any] = {"model": {"base": "somewhere"}, "data": {"folder": "pictures"}}


def problems(**sections: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_config({**LEAST, **sections})
    return {problem.key: problem.sentence for problem in caught.value.problems}


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_has_a_title_a_line_of_help_and_an_expectation_in_words(key: str) -> None:
    setting = SETTINGS[key]
    assert setting.field.title
    assert setting.field.description
    assert setting.field.description.endswith(".")
    assert setting.expectation


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_may_be_absent_is_absent_by_default(key: str) -> None:
    """TOML cannot say 'none': a default that is something else could never be overcome, nor read back."""
    field = SETTINGS[key].field
    allows_none = NoneType in get_args(field.annotation)
    assert not allows_none or field.default is None


def test_two_settings_are_all_that_must_be_given() -> None:
    assert [key for key, setting in SETTINGS.items() if setting.field.is_required()] == [
        "model.base",
        "data.folder",
        "data.mask.source",  # once there is a table data.mask at all
        "data.prior.class_prompt",
    ]
    assert parse_config(LEAST).train.steps > 0


def test_a_config_cannot_be_changed() -> None:
    config = parse_config(LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 5  # type: ignore[misc]


def test_every_choice_of_layers_is_in_the_tables_of_the_core() -> None:
    choices = AdapterConfig.model_json_schema()["properties"]["targets"]["enum"]
    assert set(choices) == set(UNET_TARGETS) == set(TEXT_ENCODER_TARGETS)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.steps", 0, "a whole number from 1 to 1000000"),
        ("train.steps", -1, "a whole number from 1 to 1000000"),
        ("train.steps", 10**9, "a whole number from 1 to 1000000"),
        ("train.steps", "abc", "a whole number from 1 to 1000000"),
        ("train.steps", 2.5, "a whole number from 1 to 1000000"),
        ("adapter.rank", 0, "a whole number from 1 to 1024"),
        ("adapter.rank", 4096, "a whole number from 1 to 1024"),
        ("adapter.alpha", 0, "a number above 0 and at most 4096"),
        ("optim.learning_rate", 0, "a number above 0 and at most 10"),
        ("optim.learning_rate", 11, "a number above 0 and at most 10"),
        ("optim.learning_rate", float("nan"), "a number above 0 and at most 10"),
        ("optim.clip_norm", float("inf"), "a number from 0 to 1000"),
        ("adapter.kind", "loha", "one of lora, dora, full"),
        ("data.resolution_px", 500, "a whole number, a multiple of 8, from 32 to 4096"),
        ("data.background", "white", "a colour such as #ffffff"),
        ("train.twin", "perhaps", "true or false"),
        ("sample.size_px", [512], "a list of 2, each a whole number, a multiple of 8, from 32 to 4096"),
        ("sample.prompts", "one text", "a list of at most 32 texts"),
        ("adapter.ranks", 4, "a table of text = a whole number from 1 to 1024"),
    ],
)
def test_a_bad_value_is_answered_with_key_value_and_limits(key: str, value: object, expected: str) -> None:
    section, _, name = key.partition(".")
    assert problems(**{section: {**LEAST.get(section, {}), name: value}}) == {
        key: f"{key} is {value!r}: give {expected}"
    }


def test_what_is_wrong_in_a_table_of_the_users_own_names_is_told_at_the_setting() -> None:
    expected = "give a table of text = a whole number from 1 to 1024"
    assert problems(adapter={"ranks": {"*.attn2.*": 4, "*.ff.*": 0}}) == {
        "adapter.ranks": f"adapter.ranks has '*.ff.*' = 0: {expected}"
    }
    (sentence,) = problems(adapter={"ranks": {"": 3}}).values()
    assert sentence == f"adapter.ranks has '' = '': {expected}"


def test_every_problem_is_told_at_once() -> None:
    assert set(problems(train={"steps": 0, "seed": -1}, adapter={"rank": 0})) == {
        "train.steps",
        "train.seed",
        "adapter.rank",
    }


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"model": {}, "data": {"folder": "x", "prior": {}}})
    assert str(caught.value).splitlines() == [
        "model.base is missing: give text",
        "data.prior.class_prompt is missing: give text",
    ]


@pytest.mark.parametrize(
    ("sections", "key", "suggestion"),
    [
        ({"train": {"stepz": 5}}, "train.stepz", "train.steps"),
        ({"train": {"batch": 5}}, "train.batch", "train.batch_size"),
        ({"learning_rate": 1e-4}, "learning_rate", "optim.learning_rate"),
        ({"train": {"learning_rate": 1e-4}}, "train.learning_rate", "optim.learning_rate"),
        ({"optimizer": {"learning_rate": 1e-4}}, "optimizer", "optim"),
        ({"adapter": {"rnk": 1}}, "adapter.rnk", "adapter.rank"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(sections: Any, key: str, suggestion: str) -> None:
    assert problems(**sections)[key].startswith(f"{key} is no setting: did you mean {suggestion}")


def test_a_key_like_no_other_leads_to_the_list() -> None:
    assert "dora-studio presets settings" in problems(zzz=1)["zzz"]


def test_a_config_of_a_newer_version_says_so() -> None:
    assert "is from a newer one, update" in problems(config_version=2)["config_version"]
    assert problems(config_version="one")["config_version"] == "config_version is 'one': give 1"


@pytest.mark.parametrize(
    "sections",
    [
        {"optim": {"text_encoder_learning_rate": 1e-5}},
        {"train": {"text_encoder_stop": 0.5}},
    ],
)
def test_settings_of_a_text_encoder_that_is_not_trained_are_an_error_not_ignored(sections: Any) -> None:
    (sentence,) = problems(**sections).values()
    assert "adapter.text_encoder is false" in sentence
    assert parse_config({**LEAST, **sections, "adapter": {"text_encoder": True}})


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([{"folder": "b"}, {"folder": "c", "repeat": 2}], "entry 2: repeat is no setting: did you mean repeats?"),
        ([{"folder": "b", "repeats": 0}], "entry 1: repeats is 0: give a whole number from 1 to 1000"),
        ([{"repeats": 2}], "entry 1: folder is missing: give a path"),
        (
            [{"folder": "b", "mask": {"sauce": "m", "source": "m"}}],
            "entry 1: mask.sauce is no setting: did you mean mask",
        ),
        ([{"folder": "b", "mask": 3}], "entry 1: mask is 3: it is a section"),
        ([{"folder": "b", "keep_tags": 1}], "entry 1: keep_tags is 1, but tags stay as they are: set shuffle_tags"),
    ],
)
def test_what_is_wrong_in_a_further_set_is_told_with_its_number(more: list[Any], sentence: str) -> None:
    found = problems(data={"folder": "pictures", "more": more})
    assert found.keys() == {"data.more"}
    assert found["data.more"].startswith(f"data.more, {sentence}")


@pytest.mark.parametrize("more", ["b", 3, {"folder": "b"}, ["b"]])
def test_further_sets_are_tables(more: object) -> None:
    sentence = problems(data={"folder": "pictures", "more": more})["data.more"]
    assert "give a list of tables with folder, instance_prompt" in sentence


def test_kept_tags_need_tags_that_change() -> None:
    assert problems(data={"folder": "x", "keep_tags": 2})["data.keep_tags"].startswith("data.keep_tags is 2, but tags")
    assert parse_config({**LEAST, "data": {"folder": "x", "keep_tags": 2, "tag_dropout": 0.1}})


def test_a_rank_of_convolutions_needs_convolutions() -> None:
    (sentence,) = problems(adapter={"conv_rank": 4, "targets": "attention-mlp"}).values()
    assert sentence.startswith("adapter.conv_rank is 4")
    assert parse_config({**LEAST, "adapter": {"conv_rank": 4, "targets": "attention-mlp-conv"}})
    assert parse_config({**LEAST, "adapter": {"conv_rank": 4, "include": ["*.conv1"]}})


def test_the_text_encoders_rate_is_a_quarter_unless_given() -> None:
    adapter = {"text_encoder": True}
    assert parse_config({**LEAST, "adapter": adapter}).optim.text_encoder_rate == 2.5e-5
    given = parse_config({**LEAST, "adapter": adapter, "optim": {"text_encoder_learning_rate": 3e-6}})
    assert given.optim.text_encoder_rate == 3e-6


def test_every_optimizer_has_a_rate_of_its_own_where_none_is_given() -> None:
    rates = {kind: parse_config({**LEAST, "optim": {"kind": kind}}).optim.rate for kind in OPTIMIZERS}
    assert rates["prodigy"] == 1
    assert rates["lion"] < rates["adamw"] == 1e-4
    assert parse_config({**LEAST, "optim": {"kind": "prodigy"}}).optim.text_encoder_rate == 1


@pytest.mark.parametrize(
    ("optim", "words"),
    [
        ({"kind": "prodigy", "learning_rate": 1e-4}, "optim.learning_rate is 0.0001, but prodigy finds the rate"),
        ({"learning_rate": 1.0}, "optim.learning_rate is 1, more than adamw can learn with: give at most 0.1, 0.0001"),
        ({"kind": "lion", "learning_rate": 0.05}, "give at most 0.02, 2e-05 is usual"),
        ({"kind": "prodigy", "up_factor": 4}, "optim.up_factor is 4, but prodigy finds one rate for everything"),
        ({"kind": "prodigy", "magnitude_factor": 0}, "optim.magnitude_factor is 0, but prodigy finds one rate"),
        (
            {"kind": "prodigy", "text_encoder_learning_rate": 0.5},
            "optim.text_encoder_learning_rate is 0.5, but prodigy",
        ),
        ({"kind": "adafactor", "betas": [0.9, 0.99]}, "optim.betas is given, but optim.kind is adafactor"),
        ({"kind": "adamw-schedule-free", "betas": [0, 0.99]}, "optim.betas begins with 0"),
        ({"kind": "adamw-schedule-free", "ema_decay": 0.9}, "optim.ema_decay is 0.9, but adamw-schedule-free averages"),
    ],
)
def test_what_cannot_be_meant_with_an_optimizer_is_told(optim: dict[str, object], words: str) -> None:
    (sentence,) = problems(adapter={"text_encoder": True}, optim=optim).values()
    assert words in sentence


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"schedule": {"warmup": 0.7}},
            "schedule.warmup is 0.7: give a share of the steps up to 0.5, or a whole number",
        ),
        ({"schedule": {"warmup": 2.5}}, "schedule.warmup is 2.5: give a share"),
        ({"schedule": {"warmup": 30}, "train": {"steps": 30}}, "schedule.warmup is 30, but train.steps is 30"),
        ({"schedule": {"kind": "constant", "decay": 0.2}}, "schedule.decay is 0.2, but schedule.kind is constant"),
        ({"schedule": {"kind": "constant", "cycles": 3}}, "schedule.cycles is 3, but schedule.kind is constant"),
        (
            {"optim": {"kind": "prodigy"}, "adapter": {"text_encoder": True}, "train": {"text_encoder_stop": 0.5}},
            "train.text_encoder_stop is 0.5, but prodigy finds one rate",
        ),
    ],
)
def test_what_cannot_be_meant_with_a_schedule_is_told(sections: dict[str, Any], words: str) -> None:
    (sentence,) = problems(**sections).values()
    assert sentence.startswith(words)


def test_warm_up_is_a_share_or_a_number_of_steps() -> None:
    steps = {warmup: ScheduleConfig(warmup=warmup).warmup_steps(90) for warmup in (0, 0.05, 0.5, 1, 30)}
    assert steps == {0: 0, 0.05: 4, 0.5: 45, 1: 1, 30: 30}


def test_the_page_can_have_all_of_it_without_torch() -> None:
    code = "import sys, trainer.config_io, trainer.data.scan, trainer.data.captions, trainer.plan; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "trainer.plan" in loaded
    assert {"torch", "numpy", "diffusers", "transformers"}.isdisjoint(loaded)


def test_the_whole_config_is_a_json_schema() -> None:
    assert set(RunConfig.model_json_schema()["properties"]) >= {"model", "data", "adapter", "train"}


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"loss": {"min_snr_gamma": 8}}, "loss.min_snr_gamma", "is 8, but loss.weighting is none"),
        (
            {"loss": {"weighting": "p2", "min_snr_gamma": 8}},
            "loss.min_snr_gamma",
            "set that to min-snr or soft-min-snr",
        ),
        ({"loss": {"delta": 0.5}}, "loss.delta", "is 0.5, but loss.kind is l2"),
        ({"loss": {"delta_schedule": "snr"}}, "loss.delta_schedule", "set that to huber or smooth-l1"),
        ({"noise": {"timestep_range": [0.5, 0.5]}}, "noise.timestep_range", "is [0.5, 0.5], which leaves no timestep"),
        ({"noise": {"timestep_location": 1.0}}, "noise.timestep_location", "set that to logit-normal"),
        (
            {"noise": {"timesteps": "mode", "timestep_location": 1.0}},
            "noise.timestep_location",
            "noise.timesteps is mode",
        ),
        ({"log": {"wandb_offline": True}}, "log.wandb_offline", "there is no log.wandb_project: name one"),
        ({"noise": {"timestep_scale": 0.5}}, "noise.timestep_scale", "but noise.timesteps is uniform"),
    ],
)
def test_a_setting_of_the_loss_or_noise_that_would_do_nothing_is_refused(
    sections: dict[str, Any], key: str, words: str
) -> None:
    assert words in problems(**sections)[key]


def test_the_former_name_of_min_snr_still_loads_and_the_new_ones_win() -> None:
    old = {"train": {"steps": 3, "min_snr_gamma": 8.0}}
    config = parse_config(renewed({**LEAST, **old}))
    assert (config.train.steps, config.loss.weighting, config.loss.min_snr_gamma) == (3, "min-snr", 8)
    mixed = parse_config(renewed({**LEAST, **old, "loss": {"weighting": "soft-min-snr"}}))
    assert (mixed.loss.weighting, mixed.loss.min_snr_gamma) == ("soft-min-snr", 8)
    assert parse_config(renewed(dict(LEAST))) == parse_config(LEAST)
    broken = {**old, "loss": 3}
    assert renewed(broken) == broken  # which is told as what it is
