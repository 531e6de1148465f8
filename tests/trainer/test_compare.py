"""Pictures of adapter files: the base's own where nothing is adapted, the file's where something is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.compare import exported
from trainer.components import Components, load_components
from trainer.config import RunConfig
from trainer.config_sections import ModelConfig
from trainer.from_file import Column, draw_column
from trainer.run_dir import RunDir
from trainer.sampling import draw_picture
from trainer.session import run_training
from trainer.shot import Shot

SHOT = Shot("a sks thing", "", 3, 2, 1.5, 32, 32)


@pytest.fixture(params=["lora", "dora"])
def trained(tmp_path: Path, tiny_settings: Callable[..., RunConfig], request: pytest.FixtureRequest) -> RunDir:
    settings = tiny_settings(train__steps=2, adapter__kind=request.param)
    run = RunDir.create(tmp_path / "home" / "runs", settings)
    run_training(run)
    return run


def adapter_file(run: RunDir) -> Path:
    return run.path / exported(run).file


def base_of(tiny_base: Callable[[str], Path]) -> Components:
    return load_components(ModelConfig(base=str(tiny_base("sd1"))))


def test_only_an_adapter_at_a_strength_changes_the_pictures(trained: RunDir, tiny_base: Callable[[str], Path]) -> None:
    components, file = base_of(tiny_base), adapter_file(trained)
    own = draw_picture(components, SHOT).tobytes()
    drawn = {
        column.title: draw_column(components, column, [SHOT])[0].tobytes()
        for column in (Column("on", file), Column("off", file, 0.0), Column("base"))
    }
    assert drawn["base"] == drawn["off"] == own
    assert drawn["on"] != own


def test_pictures_come_from_the_file_and_not_from_the_checkpoint(
    trained: RunDir, tiny_base: Callable[[str], Path]
) -> None:
    components, file = base_of(tiny_base), adapter_file(trained)
    before = draw_column(components, Column("", file), [SHOT])[0].tobytes()
    for checkpoint in trained.checkpoints_dir.rglob("*.safetensors"):
        checkpoint.write_bytes(b"broken")
    assert draw_column(components, Column("", file), [SHOT])[0].tobytes() == before
