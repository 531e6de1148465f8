"""The files of a finished run: those that its kind is exact in, each proven; none at all is a failure."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dora_core.families import FAMILIES, ModelModules
from dora_core.spec import NormAxis
from tests.adapters import random_adapter, random_weights, small_modules
from tests.trainer.test_export import NAMES
from trainer.events import Exported, Warned, read_events
from trainer.export import UnprovenError, export_adapter
from trainer.export_targets import finishing_targets
from trainer.finishing import export_all
from trainer.run_dir import RunDir


def finish(folder: Path, axis: NormAxis | None, modules: ModelModules) -> RunDir:
    run = RunDir.make(folder, "x", {"run.toml": b""})
    base = random_weights(modules, NAMES)
    export = partial(export_adapter, random_adapter(base, axis), base, modules)
    export_all(run, finishing_targets(axis), "panda", export, lambda name, done, total: None)
    return run


@pytest.mark.parametrize(
    ("axis", "wanted"),
    [
        (None, {"panda.safetensors": "ComfyUI"}),
        ("input", {"panda.safetensors": "ComfyUI"}),
        (
            "output",
            {
                "panda.safetensors": "LyCORIS",
                "panda-comfyui-compensated.safetensors": "ComfyUI",
                "panda-diffusers.safetensors": "diffusers, PEFT",
            },
        ),
    ],
)
def test_every_kind_of_adapter_leaves_the_files_that_it_is_exact_in(
    tmp_path: Path, axis: NormAxis | None, wanted: dict[str, str]
) -> None:
    run = finish(tmp_path, axis, small_modules("sd1"))
    told = [event for event in read_events(run.events_file)[0] if isinstance(event, Exported)]
    assert [event.file for event in told] == [f"exports/{name}" for name in wanted]
    for event, program in zip(told, wanted.values(), strict=True):
        assert (run.path / event.file).is_file()
        assert event.headline.startswith(f"{program} renders all 2 layers as trained")


# One output: ComfyUI takes a magnitude of shape (1, in) for one of the output axis then.
UNPROVABLE = ModelModules(FAMILIES["sd1"], {"unet.conv_in": (1, 9, 3, 3), NAMES[1]: (6, 9)})


def test_a_run_without_a_proven_file_has_failed_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnprovenError, match="Not proven: ComfyUI"):
        finish(tmp_path, "input", UNPROVABLE)
    (run,) = (RunDir(path) for path in tmp_path.iterdir())
    (warned,) = read_events(run.events_file)[0]
    assert isinstance(warned, Warned)
    assert "Not proven: ComfyUI" in warned.text
    assert list(run.exports_dir.iterdir()) == []
