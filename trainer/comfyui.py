"""Asking a ComfyUI that the user has what its own code makes of a file: in another process, with its own Python."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.failures import ExplainedError

PROBE = Path(__file__).with_name("comfyui_probe.py")
# Where a Python of ComfyUI's own lies: a virtual environment, or the portable package for Windows.
PYTHONS = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe",
    "../python_embeded/python.exe")  # fmt: skip


class ComfyUIError(ExplainedError):
    """A folder that is no ComfyUI, or one that does not run."""

    category = "bad settings"


@dataclass(frozen=True)
class ComfyUIAnswer:
    """Errors relative to each layer's update, by layer and strength, as ComfyUI's own code computes the weights."""

    version: str | None
    names_checked: bool  # False: ComfyUI cannot load a model of this size, so only its arithmetic was asked
    unmatched: Sequence[str]
    strengths: Sequence[float]
    errors: Mapping[str, Sequence[float]]

    @property
    def program(self) -> str:
        return "This ComfyUI" if self.version is None else f"ComfyUI {self.version}"

    @property
    def worst_layer(self) -> str:
        return max(self.errors, key=lambda name: max(self.errors[name]))

    @property
    def worst(self) -> float:
        return max(self.errors[self.worst_layer])

    @property
    def median(self) -> float:
        return statistics.median(max(errors) for errors in self.errors.values())


def ask_comfyui(folder: Path, file: Path, base: Path, python: Path | None = None) -> ComfyUIAnswer:
    """Raises ComfyUIError, with the end of what the process said, where there is no answer."""
    if not (folder / "comfy" / "lora.py").is_file():
        raise ComfyUIError(
            f"{folder} is no ComfyUI: it has no comfy/lora.py.", "Give the folder with ComfyUI's main.py."
        )
    with tempfile.TemporaryDirectory() as temporary:
        answer, job = Path(temporary) / "answer.json", Path(temporary) / "job.json"
        paths = {"comfyui": folder, "package_root": PROBE.parent.parent, "file": file, "base": base}
        job.write_text(json.dumps({key: str(path.absolute()) for key, path in (paths | {"answer": answer}).items()}))
        command = [str(python or _python_of(folder)), str(PROBE), str(job)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, cwd=temporary, env=environment, capture_output=True, text=True)
        if done.returncode or not answer.exists():
            said = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise ComfyUIError(
                f"{command[0]} could not run the code in {folder}:\n{said}",
                "Name the Python that this ComfyUI runs with: --python.",
            )
        return ComfyUIAnswer(**json.loads(answer.read_text(encoding="utf-8")))


def _python_of(folder: Path) -> Path:
    return next((folder / name for name in PYTHONS if (folder / name).exists()), Path(sys.executable))
