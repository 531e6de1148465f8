"""Presets: every file loads, keeps what its name promises, and stands below what the user sets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dora_core.families import FAMILIES
from trainer.base_files import look_up
from trainer.cli_presets import settings_table
from trainer.config_errors import SETTINGS, ConfigError
from trainer.config_io import config_from, load_config
from trainer.home import Home
from trainer.presets import SHIPPED, Preset, find_preset, list_presets, preset_folders
from trainer.vram import training_memory

PRESETS = {preset.name: preset for preset in list_presets([SHIPPED]).presets}
PICTURES = ["data.folder=/pictures"]


def test_all_shipped_presets_are_read() -> None:
    assert list_presets([SHIPPED]).broken == ()
    assert len(PRESETS) == len(list(SHIPPED.glob("*.toml")))
    kinds = {"starter", "sd15-subject", "sd15-subject-prodigy", "sd15-style", "sd21-style"}
    kinds |= {"sdxl-subject", "sdxl-subject-8gb", "sdxl-style"}
    assert set(PRESETS) == {f"{purpose}-{kind}" for purpose in kinds for kind in ("lora", "dora")}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_needs_pictures_and_nothing_else(name: str) -> None:
    config = load_config(name, PICTURES)
    preset = PRESETS[name]
    family = FAMILIES[preset.head.family]
    assert config.adapter.kind == name.rpartition("-")[2]
    assert preset.head.title.endswith({"lora": "LoRA", "dora": "DoRA"}[config.adapter.kind])
    assert (config.model.base == "starter") == name.startswith("starter")
    if config.model.base != "starter":
        prediction = "v" if name.startswith("sd21") else "epsilon"  # the base model of 768 px
        own = family.resolution_px[prediction]
        assert config.data.resolution_px == (768 if "8gb" in name else own)
        assert name.startswith(preset.head.title.split(" ")[0].lower().replace(".", ""))
    told = {"subject": (config.data.flip, False), "style": (config.data.flip, True)}
    assert all(is_so == wanted for word, (is_so, wanted) in told.items() if word in name)
    assert (config.optim.kind == "prodigy") == ("prodigy" in name)
    assert config.pictures_per_step == 4 or "8gb" not in name
    assert not (config.noise.offset and config.noise.pyramid)  # they do the same work


@pytest.mark.parametrize("name", ["sdxl-subject-8gb-lora", "sdxl-subject-8gb-dora"])
def test_what_is_for_a_card_of_8_gb_fits_one_by_the_plan(name: str) -> None:
    base = look_up("stabilityai/stable-diffusion-xl-base-1.0")
    assert training_memory(load_config(name, PICTURES), base, "bf16", on_card=True).peak_bytes < 0.9 * 8e9


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_steps_by_a_rule_or_itself(name: str) -> None:
    preset = PRESETS[name]
    assert (preset.steps is None) == ("steps" in preset.values["train"])


def test_a_dora_preset_differs_from_its_lora_only_in_kind_rank_and_rate() -> None:
    for purpose in {name.rpartition("-")[0] for name in PRESETS}:
        lora, dora = flat(PRESETS[f"{purpose}-lora"]), flat(PRESETS[f"{purpose}-dora"])
        differing = {key for key in lora.keys() | dora.keys() if lora.get(key) != dora.get(key)}
        assert differing <= {"adapter.kind", "adapter.rank", "optim.learning_rate", "optim.text_encoder_learning_rate"}


def flat(preset: Preset) -> dict[str, object]:
    return {f"{section}.{key}": value for section, table in preset.values.items() for key, value in table.items()}


@pytest.mark.parametrize(("count", "steps"), [(3, 800), (12, 1200), (200, 3000)])
def test_steps_follow_the_number_of_pictures_unless_somebody_says(tmp_path: Path, count: int, steps: int) -> None:
    for index in range(count):
        (tmp_path / f"{index}.png").touch()
    (tmp_path / "0.txt").touch()
    folder = f"data.folder={tmp_path}"
    assert load_config("sd15-subject-dora", [folder]).train.steps == steps
    assert load_config("sd15-subject-dora", [folder, "train.steps=5"]).train.steps == 5


def test_a_file_stands_above_its_preset_and_overrides_above_both(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'preset = "sd15-subject-lora"\n[adapter]\nrank = 4\n[data]\nfolder = "pictures"\n'
    )
    config = load_config(tmp_path / "mine.toml", ["optim.learning_rate=0.001"])
    assert (config.adapter.rank, config.adapter.text_encoder, config.optim.learning_rate) == (4, True, 0.001)
    assert config.data.folder == tmp_path / "pictures"
    other = load_config(tmp_path / "mine.toml", ["preset=sdxl-style-dora"])
    assert (other.adapter.kind, other.adapter.rank) == ("dora", 4)


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean sd15-subject-dora"):
        load_config("sd15-subjct-dora")
    with pytest.raises(ConfigError, match="did you mean starter"):
        config_from({"preset": "startr-lora"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[preset\n", "no valid TOML"),
        ("[train]\nsteps = 3\n", r"its table \[preset\] needs title"),
        ('[preset]\ntitle = "x"\nsummary = "y"\nfamily = "sd1"\nsize = 3\n', r"size \(extra"),
    ],
)
def test_a_broken_preset_is_listed_with_the_reason_and_stops_nothing(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "bad.toml").write_text(content)
    found = list_presets([SHIPPED, tmp_path])
    assert {preset.name for preset in found.presets} == set(PRESETS)
    (broken,) = found.broken
    assert broken.path.name == "bad.toml"
    assert re.search(reason, broken.reason)


def test_a_preset_of_the_user_wins_over_a_shipped_one(tmp_path: Path) -> None:
    folders = preset_folders(Home(tmp_path))
    folders[1].mkdir()
    (folders[1] / "starter-lora.toml").write_text('[preset]\ntitle = "Mine"\nsummary = "y"\nfamily = "sd1"\n')
    assert find_preset("starter-lora", folders).head.title == "Mine"
    assert {preset.head.title for preset in list_presets(folders).presets if preset.name == "starter-lora"} == {"Mine"}


def test_the_table_of_settings_in_the_readme_is_the_one_that_is_declared() -> None:
    assert (SHIPPED / "README.md").read_text(encoding="utf-8").endswith(f"{settings_table()}\n")


@pytest.mark.parametrize("arguments", [(), ("settings",)])
def test_the_command_lists_what_there_is(arguments: tuple[str, ...]) -> None:
    shown = run("presets", *arguments).stdout
    assert all(name in shown for name in (SETTINGS if arguments else PRESETS))


def test_the_command_writes_a_config_that_is_the_preset_and_never_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    run("presets", "write", "sdxl-style-dora", str(file), *PICTURES, "train.steps=7")
    assert load_config(file) == load_config("sdxl-style-dora", [*PICTURES, "train.steps=7"])
    again = run("presets", "write", "starter-lora", str(file), *PICTURES, code=1)
    assert "is there already" in again.stderr
    wrong = run("presets", "write", "starter-lora", str(tmp_path / "b.toml"), *PICTURES, "rank=4", code=1)
    assert "did you mean adapter.rank" in wrong.stderr
    assert not (tmp_path / "b.toml").exists()


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SHIPPED.parent)
    assert done.returncode == code, done.stderr
    return done
