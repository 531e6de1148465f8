"""The commands of training, as they are typed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer import cli_resume, cli_sample, cli_train
from trainer.cli_train import stop_on_interrupt
from trainer.config import RunConfig
from trainer.config_io import save_config
from trainer.events import read_events, read_metrics
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.status import read_status
from trainer.store import Store

Settings = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 120


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
    assert "exports/tiny-dora.safetensors: ComfyUI renders all" in trained.output
    for clutter in ("Loading pipeline", "Loading weights", "Some weights", "Warning"):
        assert clutter not in trained.output
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


def test_twins_are_named_before_they_train(tmp_path: Path, home: Path, tiny_settings: Settings) -> None:
    file = tmp_path / "tiny.toml"
    save_config(tiny_settings(train__steps=2), file)
    done = CliRunner().invoke(cli_train.app, [str(file), "--twin"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())  # however it is wrapped
    assert "once as LoRA and once as DoRA" in said
    lora, dora = sorted((home / "runs").iterdir(), key=lambda path: "dora" in path.name)
    assert f"one after the other: {lora.name}, {dora.name}" in said
    assert said.count("finished: ") == 2


def test_what_waits_in_the_background_has_a_plan_first_and_is_refused_like_any_other(
    tmp_path: Path, home: Path, tiny_settings: Settings
) -> None:
    file = tmp_path / "tiny.toml"
    save_config(tiny_settings(), file)
    wrong = [f"data.folder={tmp_path / 'nothing here'}", "model.base=model.ckpt"]
    refused = CliRunner().invoke(cli_train.app, [str(file), "--background", *wrong])
    assert refused.exit_code == 1
    assert "problem  data.folder" in refused.output
    assert "problem  model.base" in refused.output
    assert not (home / "runs").exists()
    assert not (home / "queue").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_one_ctrl_c_saves_and_stops(tmp_path: Path, home: Path, tiny_settings: Settings) -> None:
    file = tmp_path / "tiny.toml"
    save_config(tiny_settings(train__steps=100_000, save__every_steps=0), file)
    process = begin("train", str(file))
    read_until(process, "Training ...")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=WAIT_SECONDS)[0]
    (run,) = (RunDir(path) for path in (home / "runs").iterdir())
    assert process.returncode == 0
    assert "stopping as soon as nothing is lost" in said
    assert f"to go on: dora-studio resume {run.id}" in said
    status = read_status(run)
    assert (status.state, status.saved_step or 0) == ("stopped", status.step)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_two_leave_at_once_and_the_run_goes_on_from_its_last_checkpoint(
    tmp_path: Path, home: Path, tiny_settings: Settings
) -> None:
    file = tmp_path / "tiny.toml"
    save_config(tiny_settings(train__steps=2, train__accumulation=120, save__every_steps=1), file)  # long steps
    process = begin("train", str(file))
    read_until(process, "Training ...")
    (run,) = (RunDir(path) for path in (home / "runs").iterdir())
    while not (run.checkpoints_dir / "step-000001").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping as soon as")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=WAIT_SECONDS)[0]
    assert "Traceback" not in said, said
    assert process.returncode != 0, said
    status = read_status(run)
    assert (status.state, status.step, status.message) == ("stopped", 1, "Stopped from the keyboard.")

    resumed = begin("resume", "last")
    assert "finished: " in resumed.communicate(timeout=WAIT_SECONDS)[0]
    assert [row.step for row in read_metrics(run.metrics_file)[0]] == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_second_stop_kills_a_run_that_a_terminal_started(tmp_path: Path, home: Path, tiny_settings: Settings) -> None:
    store = Store(Home(home))
    run = store.create(tiny_settings(train__steps=2, train__accumulation=256, train__batch_size=16))  # long steps
    process = begin("resume", run.id)
    while not any(event.kind == "sampled" for event in read_events(run.events_file)[0]):
        time.sleep(0.01)
    assert "Stop again" in store.stop(run)
    assert store.status(run).state == "stopping"
    assert store.stop(run) == "Ended at once."
    process.communicate(timeout=WAIT_SECONDS)  # it is gone; who killed it has collected its exit code
    status = store.status(run)
    assert (status.state, "begins anew" in status.fix) == ("interrupted", True)


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.cli", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout)


def test_the_first_interrupt_asks_to_stop_and_the_second_ends(tmp_path: Path, tiny_settings: Settings) -> None:
    run = RunDir.create(tmp_path, tiny_settings())
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(run):
        signal.raise_signal(signal.SIGINT)
        assert run.requested("stop")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
