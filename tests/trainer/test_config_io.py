"""Configs as files and as key=value: what is written reads back equal, what is wrong is told by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trainer import cli_train
from trainer.config import RunConfig
from trainer.config_data import MoreImagesConfig
from trainer.config_errors import SETTINGS, ConfigError
from trainer.config_io import config_from, dump_config, load_config, parse_config, save_config
from trainer.home import Home
from trainer.presets import SHIPPED

LEAST: dict[str, Any] = {"model": {"base": "somewhere"}, "data": {"folder": "/pictures"}}

# One value unlike the default for every setting.
OTHER_VALUES: dict[str, Any] = {
    "config_version": 1,
    "name": 'red "panda" \'é 🦊\\',
    "model.base": "owner/name",
    "model.revision": "fp16",
    "model.vae": "owner/vae",
    "model.clip_skip": 2,
    "model.prediction": "v",
    "model.zero_terminal_snr": False,
    "data.folder": "/tést dír/x",
    "data.instance_prompt": "a photo of = [x] {y}",
    "data.caption_source": "name",
    "data.repeats": 3,
    "data.weight": 0.5,
    "data.flip": True,
    "data.crop_jitter": True,
    "data.mask.source": "/masks",
    "data.mask.unmasked_weight": 0.25,
    "data.trigger": "zxc",
    "data.wildcards": True,
    "data.shuffle_tags": True,
    "data.tag_dropout": 0.1,
    "data.keep_tags": 1,
    "data.caption_dropout": 0.05,
    "data.more": [MoreImagesConfig(folder=Path("/more"), repeats=2, role="prior-prediction").model_dump(mode="json")],
    "data.cache": "memory",
    "data.resolution_px": 768,
    "data.bucket_step_px": 32,
    "data.bucket_ratio": 3.0,
    "data.smallest_side_px": 128,
    "data.longest_ratio": 5.0,
    "data.background": "#102030",
    "data.prior.class_prompt": "a dog",
    "data.prior.count": 7,
    "data.prior.weight": 0.5,
    "data.prior.folder": "/class",
    "adapter.kind": "lora",
    "adapter.norm_axis": "output",
    "adapter.norm_gradient": "exact",
    "adapter.rank": 3,
    "adapter.alpha": 1.5,
    "adapter.conv_rank": 2,
    "adapter.rank_stabilised": True,
    "adapter.ranks": {"*.attn2.*": 4, "mid_block.*": 2},
    "adapter.dropout": 0.125,
    "adapter.targets": "attention-mlp-conv",
    "adapter.include": ["*.attn1.*", "*.attn2.*"],
    "adapter.exclude": ["up_blocks.*"],
    "adapter.text_encoder": True,
    "optim.kind": "lion",
    "optim.learning_rate": 0.003,
    "optim.text_encoder_learning_rate": 2e-05,
    "optim.up_factor": 4.0,
    "optim.magnitude_factor": 0.5,
    "optim.weight_decay": 0.25,
    "optim.betas": [0.8, 0.95],
    "optim.clip_norm": 2.0,
    "optim.ema_decay": 0.75,
    "schedule.kind": "rex",
    "schedule.warmup": 0.25,
    "schedule.decay": 0.5,
    "schedule.cycles": 2,
    "train.steps": 12,
    "train.batch_size": 3,
    "train.accumulation": 2,
    "train.seed": 9,
    "train.precision": "bf16",
    "train.checkpointing": True,
    "train.checkpointed": "transformers",
    "train.channels_last": True,
    "train.compile": True,
    "model.bits": "nf4",
    "train.text_encoder_stop": 0.5,
    "train.validation_every_steps": 5,
    "train.validation_pictures": 2,
    "train.twin": True,
    "loss.weighting": "soft-min-snr",
    "loss.min_snr_gamma": 8.0,
    "loss.kind": "huber",
    "loss.delta": 0.25,
    "loss.delta_schedule": "snr",
    "noise.timesteps": "logit-normal",
    "noise.timestep_location": -0.5,
    "noise.timestep_scale": 1.5,
    "noise.timestep_range": [0.25, 0.75],
    "noise.offset": 0.05,
    "noise.pyramid": 0.3,
    "noise.perturbation": 0.1,
    "sample.prompts": ["a cat, sitting", "a dog"],
    "sample.negative": "blurry",
    "sample.every_steps": 6,
    "sample.steps": 8,
    "sample.guidance": 4.5,
    "sample.seed": 11,
    "sample.size_px": [512, 768],
    "save.every_steps": 4,
    "save.keep_last": 5,
    "log.tensorboard": True,
    "log.wandb_project": "pandas",
    "log.wandb_offline": True,
}


def value_at(config: RunConfig, key: str) -> object:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def as_text(value: object) -> str:
    """As a person would type it behind the '='."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and isinstance(value[0], dict):
        tables = [[f"{key} = {json.dumps(each)}" for key, each in one.items() if each is not None] for one in value]
        return "[" + ", ".join("{" + ", ".join(table) + "}" for table in tables) + "]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r} = {each}' for name, each in value.items())}}}"
    return str(value)


def overrides() -> list[str]:
    return [f"{key}={as_text(value)}" for key, value in OTHER_VALUES.items()]


def test_every_setting_can_be_overridden_and_survives_a_round_trip_through_a_file(tmp_path: Path) -> None:
    assert set(OTHER_VALUES) == set(SETTINGS)
    config = config_from(LEAST, overrides())
    assert {key: value_at(config, key) for key in OTHER_VALUES} == OTHER_VALUES
    save_config(config, tmp_path / "run.toml")
    assert load_config(tmp_path / "run.toml") == config


def test_a_config_of_defaults_survives_too_and_a_second_writing_gives_the_same_bytes() -> None:
    config = parse_config(LEAST)
    text = dump_config(config)
    assert "None" not in text
    assert dump_config(config) == text


@settings(deadline=None, max_examples=40)
@given(
    name=st.text(), prompts=st.lists(st.text(), max_size=3), rate=st.floats(1e-8, 0.1), seed=st.integers(0, 2**32 - 1)
)
def test_any_text_and_number_reads_back(
    tmp_path_factory: Any, name: str, prompts: list[str], rate: float, seed: int
) -> None:
    name, prompts = name.encode("utf-8", "ignore").decode(), [p.encode("utf-8", "ignore").decode() for p in prompts]
    sections = {"optim": {"learning_rate": rate}, "train": {"seed": seed}, "sample": {"prompts": prompts}}
    config = parse_config({**LEAST, "name": name, **sections})
    path = tmp_path_factory.mktemp("config") / "run.toml"
    save_config(config, path)
    assert load_config(path) == config


def test_relative_paths_start_at_the_file_and_those_of_overrides_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "run.toml").write_text('[model]\nbase = "model"\nvae = "owner/vae"\n[data]\nfolder = "pictures"\n')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(tmp_path / "run.toml")
    assert config.model.base == str(tmp_path / "model")
    assert config.model.vae == "owner/vae"  # no such folder: a name on the hub
    assert config.data.folder == tmp_path / "pictures"
    assert load_config(tmp_path / "run.toml", ["data.folder=mine"]).data.folder == elsewhere / "mine"


def test_none_takes_a_setting_out(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[model]\nbase = "x"\n[data]\nfolder = "y"\n[adapter]\nalpha = 4\n')
    assert load_config(tmp_path / "run.toml").adapter.alpha == 4
    assert load_config(tmp_path / "run.toml", ["adapter.alpha=none"]).adapter.alpha is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.stepz=5", "train.stepz is no setting: did you mean train.steps?"),
        ("train.steps", "'train.steps' has no '=': write key=value, such as train.steps=500"),
        ("train.steps=abc", "train.steps is 'abc': give a whole number from 1 to 1000000"),
        ("train.steps=", "train.steps is '': give a whole number from 1 to 1000000"),
        ("train=5", "train is a section: set one of its settings, such as train."),
    ],
)
def test_a_bad_override_is_told_as_it_was_written(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match="^" + sentence.replace("?", r"\?")):
        config_from(LEAST, [override])


def test_text_needs_no_quotes_and_may_hold_anything() -> None:
    given = [
        "name=12",
        "data.instance_prompt=a photo of sks = dog [x]",
        'sample.negative="quoted"',
        "sample.prompts=a cat, sitting",
    ]
    config = config_from(LEAST, given)
    assert config.name == "12"
    assert config.data.instance_prompt == "a photo of sks = dog [x]"
    assert config.sample.negative == "quoted"
    assert config.sample.prompts == ("a cat, sitting",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[train]\nsteps = \n", "no valid TOML"),
        (b"[train]\nsteps = 1\nsteps = 2\n", "no valid TOML"),
        (b"\xff\xfe\x00", "no valid TOML"),
        (b"[train]\nstepz = 3\n", "train.stepz is no setting: did you mean train.steps"),
    ],
)
def test_a_bad_file_is_told_by_its_name(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"mine\.toml: .*{sentence}"):
        load_config(tmp_path / "mine.toml")


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file"):
        load_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("setting", ["train.steps=0", "adapter.rank=4096", "optim.learning_rate=nan", "train.stepz=5"])
def test_a_bad_setting_on_the_command_line_makes_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("DORA_STUDIO_HOME", str(tmp_path / "home"))
    refused = CliRunner().invoke(cli_train.app, ["starter-dora", f"data.folder={tmp_path}", setting])
    assert refused.exit_code == 1
    assert setting.partition("=")[0] in refused.output
    assert "Traceback" not in refused.output
    assert not (tmp_path / "home").exists()


def test_a_section_that_may_be_absent_is_taken_out_as_a_whole() -> None:
    values = {"data": {"folder": "/pictures", "prior": {"class_prompt": "a dog"}}, "model": {"base": "starter"}}
    assert config_from(values).data.prior is not None
    assert config_from(values, ["data.prior=none"]).data.prior is None
    with pytest.raises(ConfigError, match="data is a section"):
        config_from(values, ["data=none"])


def test_presets_are_those_of_the_home_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    shipped = (SHIPPED / "starter-lora.toml").read_text(encoding="utf-8")
    mine = re.sub(r"^rank = \d+", "rank = 3", shipped, flags=re.MULTILINE)
    (tmp_path / "presets" / "mine.toml").write_text(mine, encoding="utf-8")
    assert load_config("mine", ["data.folder=."], Home(tmp_path)).adapter.rank == 3


@pytest.mark.parametrize("text", ["~0", "~nobody-of-that-name/x", "x" * 300])
def test_text_that_no_path_can_be_is_taken_as_it_is(text: str) -> None:
    config = load_config("starter-lora", ["data.folder=.", f"data.instance_prompt={text}", f"model.base={text}"])
    assert config.data.instance_prompt == text
    assert config.model.base.endswith(text)


def test_folders_of_further_sets_and_masks_start_at_the_files_folder_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text(
        'model.base = "x"\ndata.folder = "p"\ndata.mask.source = "m"\n'
        'data.more = [{folder = "q", mask = {source = "n"}}, {folder = "r", mask = {source = "alpha"}}]\n'
    )
    data = load_config(tmp_path / "a.toml").data
    assert data.mask is not None
    masks = [one.mask.source for one in data.more if one.mask]
    assert [data.mask.source, *masks] == [str(tmp_path / "m"), str(tmp_path / "n"), "alpha"]
    assert [one.folder for one in (data, *data.more)] == [tmp_path / name for name in ("p", "q", "r")]
    monkeypatch.chdir(tmp_path)
    typed = config_from(LEAST, ['data.more=[{folder="b", repeats=2}]']).data.more
    assert [(one.folder, one.repeats) for one in typed] == [(tmp_path / "b", 2)]


def test_a_presets_steps_come_from_the_pictures_of_all_trained_sets(tmp_path: Path) -> None:
    for name, count in (("a", 12), ("b", 8), ("c", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").touch()
    kept = f'{{folder="{tmp_path / "c"}", role="prior-prediction"}}'
    more = f'[{{folder="{tmp_path / "b"}", repeats=2}}, {kept}]'
    one, two = (
        config_from({"preset": "sd15-subject-dora"}, [f"data.folder={tmp_path / 'a'}", *sets]).train.steps
        for sets in ([], [f"data.more={more}"])
    )
    assert (one, two) == (1200, 2000)  # 100 a picture
