"""The commands of training, as they are typed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer import cli_resume, cli_sample, cli_train
from trainer.cli_train import stop_on_interrupt
from trainer.config import RunConfig
from trainer.config_io import save_config
from trainer.run_dir import RunDir

Settings = Callable[..., RunConfig]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DORA_STUDIO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_train_resume_and_sample_from_a_file(tmp_path: Path, home: Path, tiny_settings: Settings) -> None:
    file = tmp_path / "tiny.toml"
    save_config(tiny_settings(), file)
    trained = CliRunner().invoke(cli_train.app, [str(file), "train.steps=2"])
    assert trained.exit_code == 0, trained.output
    (folder,) = (home / "runs").iterdir()
    assert f"finished: {folder}" in trained.output.replace("\n", "")
    assert "unet.down" in trained.output
    assert "step 2 of 2" in trained.output
    assert (folder / "exports" / "tiny-dora.safetensors").is_file()

    refused = CliRunner().invoke(cli_train.app, [str(folder), "train.steps=4"])
    assert refused.exit_code == 1
    assert "has its settings already" in refused.output

    again = CliRunner().invoke(cli_resume.app, [folder.name[-4:]])
    assert again.exit_code == 0, again.output

    drawn = CliRunner().invoke(cli_sample.app, [folder.name, "sample.prompts=a fox"])
    assert drawn.exit_code == 0, drawn.output
    (asked,) = (folder / "samples").glob("asked-000002-*")
    assert (asked / "00.png").is_file()


def test_what_the_plan_finds_wrong_ends_it_before_a_run_is_made(
    tmp_path: Path, home: Path, tiny_settings: Settings
) -> None:
    file = tmp_path / "tiny.toml"
    save_config(tiny_settings(), file)
    refused = CliRunner().invoke(cli_train.app, [str(file), f"data.folder={tmp_path / 'nothing here'}"])
    assert refused.exit_code == 1
    assert "problem  data.folder" in refused.output
    assert "Traceback" not in refused.output
    assert not (home / "runs").exists()


def test_the_first_interrupt_asks_to_stop_and_the_second_ends(tmp_path: Path, tiny_settings: Settings) -> None:
    run = RunDir.create(tmp_path, tiny_settings())
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(run):
        signal.raise_signal(signal.SIGINT)
        assert run.requested("stop")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
