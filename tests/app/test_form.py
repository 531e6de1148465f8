"""The form is the declaration: every setting, any value, and the same config as the command line's."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import setup_form
from app.draft import Draft, DraftFile
from app.form import OFF, ON, as_text, cleaned, fields, override, overrides, sections, texts_of, texts_of_config
from app.image_sets import ImageSets
from app.live import Shown
from app.setup_form import Form, form_of, read_form
from app.setup_view import view
from app.start import command
from app.studio import Studio
from trainer.config import RunConfig
from trainer.config_errors import OPTIONAL_SECTIONS, SETTINGS, ConfigError
from trainer.config_io import config_from, load_config
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.presets import SHIPPED, list_presets

NESTED: dict[str, Any] = {"data": {"folder": "/pictures"}, "model": {"base": "starter"}}


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    made = Studio(Home(tmp_path / "home"))
    ImageSets(made.sets).offer_samples()
    return made


def test_every_setting_has_its_field_once_with_the_words_of_its_declaration() -> None:
    listed = [field for section in sections() for field in section["fields"]]
    assert [field["key"] for field in listed] == list(SETTINGS)
    assert all(field["title"] == SETTINGS[field["key"]].field.title for field in listed)
    assert all(field["help"] == SETTINGS[field["key"]].field.description for field in listed)
    assert {section["key"] for section in sections() if section["is_optional"]} == OPTIONAL_SECTIONS


def test_every_field_says_what_can_be_typed() -> None:
    controls = {field.key: field for field in fields()}
    assert controls["train.precision"].choices == ("auto", "fp32", "bf16", "fp16")
    assert controls["model.zero_terminal_snr"].choices == ("", "true", "false")
    assert controls["train.checkpointing"].control == "switch"
    assert controls["sample.size_px"].control == controls["optim.betas"].control == "numbers"
    assert controls["sample.prompts"].control == "lines"
    assert controls["adapter.alpha"].is_optional
    assert not controls["adapter.rank"].is_optional


OTHERS: dict[str, object] = {  # of each kind of setting a value that is not its default
    "name": 'none, "quoted" # = [x]',
    "model.base": "'quoted'",
    "model.revision": "none",
    "model.vae": "owner/model",
    "model.prediction": "v",
    "model.zero_terminal_snr": False,
    "data.folder": "/a folder/with = signs",
    "data.prior": {"class_prompt": "a dog", "count": 7, "weight": 0.25, "folder": "/class"},
    "data.mask": {"source": "alpha", "unmasked_weight": 0.5},
    "data.more": (
        {"folder": "/a b", "repeats": 2, "weight": 0.5, "trigger": 'x, "y"'},
        {"folder": "/c", "role": "prior-prediction", "mask": {"source": "/masks", "unmasked_weight": 0.25}},
    ),
    "adapter.alpha": 1e-05,
    "adapter.include": ("[ab]*.to_q", "*.to_k"),
    "adapter.exclude": ("[ab]",),
    "adapter.ranks": {"*.attn2.*": 4, "mid = 1": 2},
    "adapter.text_encoder": True,
    "optim.learning_rate": 6e-05,
    "optim.betas": (0.8, 0.95),
    "optim.magnitude_factor": 1 / 3,
    "train.seed": 2**32 - 1,
    "sample.prompts": ("a, b", "first\nsecond", '"x"', "{{x}} ${y}", "[1]"),
    "sample.size_px": (64, 128),
}


@pytest.mark.parametrize("key", OTHERS)
def test_a_value_shown_in_the_form_is_read_back_equal(key: str) -> None:
    nested: dict[str, Any] = {section: dict(values) for section, values in NESTED.items()}
    *above, name = key.split(".")
    place = nested
    for part in above:
        place = place.setdefault(part, {})
    place[name] = OTHERS[key]
    config = RunConfig.model_validate(nested)
    assert from_texts(texts_of_config(config)) == config


def from_texts(texts: dict[str, str]) -> RunConfig:
    return config_from({}, overrides(texts, texts_of({})))


def test_further_sets_are_typed_one_a_line_and_shown_so_again() -> None:
    typed = '{folder = "/b", repeats = 2}\n\n{folder = "/c", mask = {source = "alpha"}},\n'
    config = config_from(NESTED, [override("data.more", typed)])
    assert [(one.folder.name, one.repeats) for one in config.data.more] == [("b", 2), ("c", 1)]
    shown = texts_of_config(config)["data.more"]
    assert shown.splitlines()[0] == '{folder = "/b", repeats = 2}'
    assert config_from(NESTED, [override("data.more", shown)]) == config


@pytest.mark.parametrize("preset", [path.stem for path in sorted(SHIPPED.glob("*.toml"))])
def test_a_preset_shown_in_the_form_is_the_preset(preset: str) -> None:
    config = load_config(preset, ["data.folder=/pictures"])
    assert from_texts(texts_of_config(config)) == config


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_taken_as_text(text: str) -> None:
    typed = cleaned("data.instance_prompt", text)
    config = config_from(NESTED, [override("data.instance_prompt", typed)])
    assert config.data.instance_prompt == typed.strip()


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_list_of_texts_comes_back(prompts: list[str]) -> None:
    setting = SETTINGS["sample.prompts"]
    wanted = tuple(cleaned("sample.prompts", prompt).strip() for prompt in prompts)
    config = config_from(NESTED, [override("sample.prompts", as_text(setting, wanted))])
    assert config.sample.prompts == wanted


@settings(deadline=None)
@given(st.sampled_from(sorted(SETTINGS)), st.text(max_size=200))
def test_whatever_is_typed_is_taken_or_refused_in_words(key: str, text: str) -> None:
    with suppress(ConfigError):
        config_from(NESTED, [override(key, cleaned(key, text))])


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("train.steps", "abc", "train.steps is 'abc': give a whole number from 1 to 1000000"),
        ("train.steps", "", "train.steps is '': give a whole number from 1 to 1000000"),
        ("train.steps", "0", "train.steps is 0: give a whole number from 1 to 1000000"),
        ("optim.learning_rate", "nan", "optim.learning_rate is nan: give a number above 0 and at most 10"),
        ("adapter.rank", "4096", "adapter.rank is 4096: give a whole number from 1 to 1024"),
        ("data.background", "red", "data.background is 'red': give a colour such as #ffffff"),
        ("data.more", "{folder = '/b', repeat = 2}", "data.more, entry 1: repeat is no setting: did you mean repeats?"),
    ],
)
def test_a_wrong_value_is_kept_and_told_in_the_words_of_the_config(
    studio: Studio, key: str, text: str, sentence: str
) -> None:
    setup_form.edit(studio, {key: text})
    shown = view(studio, Shown("setup", ""))
    assert shown["typed"][key] == text
    assert {"key": key, "sentence": sentence} in shown["problems"]
    assert shown["plan"] is None


def test_a_plan_s_problem_is_told_at_its_field(studio: Studio) -> None:
    setup_form.edit(studio, {"model.base": "/nowhere/model"})
    (problem,) = view(studio, Shown("setup", ""))["problems"]
    assert problem["key"] == "model.base"
    assert "'/nowhere/model' is not there" in problem["sentence"]


def test_what_says_the_same_as_the_preset_is_no_change(studio: Studio) -> None:
    rank = read_form(studio).below["adapter.rank"]
    setup_form.edit(studio, {"adapter.rank": "31"})
    assert read_form(studio).typed == {"adapter.rank": "31"}
    setup_form.edit(studio, {"adapter.rank": rank})
    assert DraftFile(studio.home).read().values == {}


def test_the_steps_follow_the_pictures_where_the_preset_says_so(studio: Studio) -> None:
    setup_form.choose_preset(studio, "sd15-subject-lora")
    form = read_form(studio)
    assert form.config(studio).train.steps == int(form.below["train.steps"]) == 1600  # 16 pictures, 100 each


def test_a_section_that_may_be_absent_is_asked_for_what_it_needs_and_switched_off_again(studio: Studio) -> None:
    setup_form.edit(studio, {"data.prior": ON})
    with pytest.raises(ConfigError, match=r"data\.prior\.class_prompt is '': give text"):
        read_form(studio).config(studio)
    setup_form.edit(studio, {"data.prior.class_prompt": "an icon", "data.prior.count": "5"})
    prior = read_form(studio).config(studio).data.prior
    assert prior is not None
    assert (prior.class_prompt, prior.count) == ("an icon", 5)
    setup_form.edit(studio, {"data.prior": OFF})
    assert read_form(studio).config(studio).data.prior is None
    assert DraftFile(studio.home).read().values["data.prior.class_prompt"] == "an icon"


def test_a_section_of_the_preset_can_be_switched_off(studio: Studio) -> None:
    setup_form.edit(studio, {"data.prior": ON, "data.prior.class_prompt": "an icon"})
    setup_form.save_preset(studio, "With prior")
    assert read_form(studio).below["data.prior"] == ON
    setup_form.edit(studio, {"data.prior": OFF})
    assert read_form(studio).config(studio).data.prior is None


TYPED = {
    "name": 'It\'s "red" & $HOME `x` 100%',
    "adapter.rank": "12",
    "adapter.alpha": "6",
    "train.twin": "true",
    "sample.prompts": 'a "b" c\nd, e',
    "sample.size_px": "64 x 128",
    "optim.learning_rate": "2e-4",
    "model.revision": "none",
    "data.prior": ON,
    "data.prior.class_prompt": "a 'thing'",
}


def test_the_command_that_is_shown_starts_the_same(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    setup_form.edit(studio, TYPED)
    form = read_form(studio)
    config = form.config(studio)
    program, verb, source, *settings = shlex.split(command(studio, form, config))
    *settings, option, home = settings
    assert (program, verb, option, home) == ("dora-studio", "train", "--home", str(studio.home.path))
    monkeypatch.chdir(studio.home.path)  # another folder than the page's
    assert load_config(source, settings, Home(Path(home))) == config
    toml = studio.home.path / "shown.toml"
    toml.write_text(view(studio, Shown("setup", ""))["toml"], encoding="utf-8")
    assert load_config(toml) == config


def test_another_preset_puts_changes_aside_and_undo_brings_them_back(studio: Studio) -> None:
    setup_form.edit(studio, {"adapter.rank": "31", "name": "mine", "sample.prompts": "a cat"})
    before = DraftFile(studio.home).read()
    setup_form.choose_preset(studio, "sd15-style-lora")
    assert read_form(studio).typed == {"name": "mine", "sample.prompts": "a cat"}
    setup_form.undo(studio)
    again = DraftFile(studio.home).read()
    assert (again.preset, again.values) == (before.preset, before.values)


def test_a_base_model_of_one_s_own_stays_among_presets_of_the_same_base(studio: Studio) -> None:
    setup_form.choose_preset(studio, "sd15-style-lora")
    setup_form.edit(studio, {"model.base": "/models/mine.safetensors"})
    setup_form.choose_preset(studio, "sd15-subject-lora")
    assert read_form(studio).typed["model.base"] == "/models/mine.safetensors"
    setup_form.choose_preset(studio, "sdxl-subject-lora")
    assert "model.base" not in read_form(studio).typed


@pytest.mark.parametrize("preset", ["starter-lora", "sdxl-style-dora"])
def test_a_run_fills_the_form_with_all_its_settings(studio: Studio, preset: str) -> None:
    folder = studio.sets / "subject"
    config = load_config(preset, [f"data.folder={folder}", "adapter.rank=5", 'sample.prompts=["x", "y"]', "name=old"])
    run = studio.store.create(config)
    setup_form.edit(studio, {"train.steps": "abc"})
    setup_form.fill_from_run(studio, run.id)
    form = read_form(studio)
    assert form.config(studio) == config
    assert form.preset == preset
    assert form.draft.set_id == "subject"
    setup_form.undo(studio)
    assert read_form(studio).typed == {"train.steps": "abc"}


def test_a_run_on_a_folder_of_its_own_fills_the_form_too(studio: Studio, tmp_path: Path) -> None:
    prior = "data.prior.class_prompt=a dog"
    config = load_config("sd15-subject-dora", [f"data.folder={tmp_path}", prior, "data.prior.count=3"])
    setup_form.fill_from_run(studio, studio.store.create(config).id)
    assert read_form(studio).config(studio) == config
    assert read_form(studio).typed["data.folder"] == str(tmp_path)


def test_a_preset_of_one_s_own_holds_the_recipe_and_nothing_of_the_set(studio: Studio) -> None:
    setup_form.choose_preset(studio, "sd15-subject-lora")
    setup_form.edit(studio, {"adapter.rank": "24", "name": "mine", "sample.prompts": "a cat"})
    before = read_form(studio).config(studio)
    name = setup_form.save_preset(studio, "My Recipe!")
    assert name == "my-recipe"
    saved = next(each for each in list_presets((studio.home.path / "presets",)).presets if each.name == name)
    assert saved.steps is not None
    assert "folder" not in saved.values["data"]
    assert "prompts" not in saved.values["sample"]
    form = read_form(studio)
    assert (form.preset, form.typed) == (name, {"name": "mine", "sample.prompts": "a cat"})
    assert form.config(studio) == before
    with pytest.raises(ExplainedError, match="already"):
        setup_form.save_preset(studio, "my recipe")


def test_a_broken_preset_is_listed_with_its_reason(studio: Studio) -> None:
    (studio.home.path / "presets").mkdir(parents=True)
    (studio.home.path / "presets" / "odd.toml").write_text("= broken")
    shown = view(studio, Shown("setup", ""))
    (broken,) = shown["broken"]
    assert "no valid TOML" in broken["reason"]
    assert len(shown["cards"]) == len(list(SHIPPED.glob("*.toml")))


def test_a_preset_that_went_is_a_problem_and_not_the_end(studio: Studio) -> None:
    DraftFile(studio.home).change(lambda draft: draft.but(preset="gone", values={"adapter.rank": "3"}))
    shown = view(studio, Shown("setup", ""))
    assert "preset is 'gone'" in shown["problems"][0]["sentence"]
    assert shown["typed"] == {"adapter.rank": "3"}


def test_keys_of_another_version_are_left_alone(studio: Studio) -> None:
    form: Form = form_of(studio, Draft(values={"no.setting": "1", "adapter.rank": "3"}))
    assert form.typed == {"adapter.rank": "3"}
