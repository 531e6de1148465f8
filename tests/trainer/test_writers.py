"""TensorBoard and W&B: what they get is what the run's own files say; what they cannot do is told and harmless."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from tests.trainer.asking import at_step, request_at
from trainer import writer_packages
from trainer.config import RunConfig
from trainer.config_sections import LogConfig
from trainer.events import Finished, StepMetrics, Warned, last_values, read_events, read_metrics
from trainer.failures import ExplainedError
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.writer_packages import has_key, require_writers, writer_problems
from trainer.writers import Writers, pictures_of, scalars_of

Settings = Callable[..., RunConfig]
IMPORTED = {"tensorboard", "wandb"} & sys.modules.keys()  # by all that trains, before any test has run


def test_every_number_of_a_row_has_a_name_and_what_was_not_measured_has_none() -> None:
    row = StepMetrics(
        step=3,
        loss=0.5,
        seconds=1.5,
        learning_rates={"unet.down": 1e-4},
        band_losses=(0.25, None, None, 0.125),
        validation_loss=0.75,
        update_norms={"unet.mid_block": 2.0},
    )
    assert scalars_of(row) == {
        "loss/training": 0.5,
        "loss/validation": 0.75,
        "loss_by_timesteps/0-25": 0.25,
        "loss_by_timesteps/75-100": 0.125,
        "learning_rate/unet.down": 1e-4,
        "update_norm/unet.mid_block": 2.0,
        "seconds": 1.5,
    }
    assert scalars_of(StepMetrics(step=4, loss=None, seconds=2)) == {"seconds": 2}


def test_tensorboard_reads_back_every_row_and_sample_once_through_a_resume(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny_settings(train__steps=4, train__validation_every_steps=2, log__tensorboard=True, save__every_steps=2)
    run = RunDir.create(tmp_path / "runs", config)
    request_at(monkeypatch, run, "stop", at_step(2))
    assert run_training(run) == "stopped"
    assert run_training(run) == "finished"
    read = accumulator.EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    read.Reload()
    rows = last_values(read_metrics(run.metrics_file)[0])
    told = {name for row in rows.values() for name in scalars_of(row)}
    assert set(read.Tags()["scalars"]) == told
    for name in told:
        wanted = [(step, scalars_of(row)[name]) for step, row in rows.items() if name in scalars_of(row)]
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)
    assert read.Tags()["images"] == ["samples/00"]
    assert [image.step for image in read.Images("samples/00")] == [0, 4]
    (tmp_path / "last.png").write_bytes(read.Images("samples/00")[-1].encoded_image_string)
    ((prompt, drawn),) = list(pictures_of(run.samples_dir / "step-000004"))
    with Image.open(tmp_path / "last.png") as picture:
        assert ImageChops.difference(picture.convert("RGB"), drawn).getbbox() is None
    assert prompt == "a sks thing"


def test_wandb_keeps_everything_in_the_run_where_it_is_offline(tmp_path: Path, tiny_settings: Settings) -> None:
    pytest.importorskip("wandb")
    log = {"wandb_project": "pandas", "wandb_offline": True}
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2, log=log))
    assert run_training(run) == "finished"
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    content = file.read_bytes()  # its keys are plain text in there
    rows = read_metrics(run.metrics_file)[0]
    for name in {name for row in rows for name in scalars_of(row)}:
        assert content.count(name.encode()) >= sum(name in scalars_of(row) for row in rows), name
    last = max(folder.glob("files/media/images/samples_*.png"), key=lambda path: path.stat().st_mtime_ns)
    ((_, drawn),) = list(pictures_of(run.samples_dir / "step-000002"))
    with Image.open(last) as picture:
        assert ImageChops.difference(picture.convert("RGB"), drawn).getbbox() is None
    assert not any(isinstance(event, Warned) for event in read_events(run.events_file)[0])


class Broken:
    """Fails at the second row."""

    name = "a writer"

    def __init__(self) -> None:
        self.rows = 0

    def write(self, row: StepMetrics) -> None:
        self.rows += 1
        if row.step == 2:
            raise OSError("no space left")

    def show(self, step: int, samples: Path) -> None:
        raise AssertionError("was closed off")

    def close(self, failed: bool) -> None:
        raise AssertionError("was closed off")


def test_a_writer_that_fails_is_told_once_and_left_alone() -> None:
    told, broken = list[str](), Broken()
    writers = Writers(told.append)
    writers.add("a writer", lambda: broken)
    for step in (1, 2, 3):
        writers.write(StepMetrics(step=step, loss=1, seconds=1))
    writers.show(3, Path("nowhere"))
    writers.close(failed=False)
    assert broken.rows == 2
    assert told == ["a writer failed and is left out from here on, training goes on: OSError: no space left"]


def test_training_goes_on_without_a_writer_whose_folder_cannot_be_written(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    pytest.importorskip("tensorboard")
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2, log__tensorboard=True))
    (run.path / "tensorboard").write_text("a file where the folder belongs")
    assert run_training(run) == "finished"
    events = read_events(run.events_file)[0]
    assert isinstance(events[-1], Finished)
    (warned,) = [event.text for event in events if isinstance(event, Warned)]
    assert warned.startswith("TensorBoard failed and is left out")


def without(missing: str, name: str) -> Any:
    return None if name == missing else util.find_spec(name)


@pytest.mark.parametrize(
    ("settings", "package", "key"),
    [
        ({"tensorboard": True}, "tensorboard", "log.tensorboard"),
        ({"wandb_project": "pandas", "wandb_offline": True}, "wandb", "log.wandb_project"),
    ],
)
def test_a_missing_package_is_told_before_anything_is_loaded_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_settings: Settings, settings: Any, package: str, key: str
) -> None:
    monkeypatch.setattr(writer_packages, "find_spec", partial(without, package))
    (problem,) = writer_problems(LogConfig(**settings))
    assert problem.key == key
    assert f'pip install "dora-studio[{package}]"' in problem.sentence
    run = RunDir.create(tmp_path / "runs", tiny_settings(log=settings))
    with pytest.raises(ExplainedError, match="needs the package") as caught:
        run_training(run)
    assert f'dora-studio[{package}]"' in caught.value.fix
    assert not any(event.kind == "phase" for event in read_events(run.events_file)[0])


def test_wandb_without_a_key_is_told_and_offline_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_packages, "find_spec", lambda name: object())
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    online = LogConfig(wandb_project="pandas")
    with pytest.raises(ExplainedError, match="has no key of Weights & Biases"):
        require_writers(online)
    assert writer_problems(LogConfig(wandb_project="pandas", wandb_offline=True)) == []
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret")
    (tmp_path / "netrc").chmod(0o600)
    assert writer_problems(online) == []
    environment = {"NETRC": str(tmp_path / "netrc")}
    assert not has_key(environment | {"WANDB_BASE_URL": "https://wandb.example.org"})
    assert has_key({"NETRC": str(tmp_path / "none"), "WANDB_API_KEY": "secret"})
    assert has_key({"NETRC": str(tmp_path / "none"), "WANDB_MODE": "offline"})


def test_nothing_of_them_is_imported_where_nobody_asked() -> None:
    assert not IMPORTED
