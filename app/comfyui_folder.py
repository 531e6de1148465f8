"""The ComfyUI folder of the user: remembered, checked, and given files that take nobody's place."""

from __future__ import annotations

import json
import shutil
from hashlib import file_digest
from pathlib import Path

from app.adapter_files import AdapterFile, NameTakenError, file_name
from app.studio import Studio
from dora_core.atomic import atomic_write
from trainer.disk import require_free
from trainer.failures import ExplainedError

LORAS = Path("models") / "loras"


class NoComfyUIError(ExplainedError):
    """A folder that does not look like ComfyUI's."""


def remembered(studio: Studio) -> str:
    """What the person gave last; "" before."""
    try:
        found = json.loads(_settings(studio).read_text(encoding="utf-8"))["comfyui"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def loras_folder(text: str) -> Path:
    """Where ComfyUI at that place looks for adapters: given its own folder, its models, or the very place."""
    given = Path(text.strip()).expanduser()
    if not text.strip() or not given.is_absolute():
        raise NoComfyUIError("This is no whole path.", "Give the folder with ComfyUI's main.py.")
    for folder in (given / LORAS, given / LORAS.name, given):
        if folder.is_dir() and folder.parts[-2:] == LORAS.parts:
            return folder
    said = "has no folder models/loras" if given.is_dir() else "is not there"
    raise NoComfyUIError(f"{given} is no ComfyUI: it {said}.", "Give the folder with ComfyUI's main.py.")


def copy(studio: Studio, file: AdapterFile, folder: str, name: str = "") -> str:
    """Copy the file, whole or not at all; what was done, as a sentence. Another file of that name is never replaced.

    Raises NoComfyUIError, NameTakenError, or OSError for a full disk.
    """
    loras = loras_folder(folder)
    with atomic_write(_settings(studio)) as out:
        out.write(json.dumps({"comfyui": folder.strip()}, indent=1).encode())
    target = loras / (file_name(name, file.path.name) if name.strip() else file.path.name)
    if target.exists():
        if _digest(target) == _digest(file.path):
            return f"{target} is there already, the same to the byte."
        raise NameTakenError(f"{target} is there already, and is another file.", "Give this one another name.")
    require_free(loras, file.stamp[1], "the copy")
    with atomic_write(target) as out, open(file.path, "rb") as source:
        shutil.copyfileobj(source, out, 2**20)
    return f"Copied to {target}. In ComfyUI press R, then choose it in Load LoRA."


def _settings(studio: Studio) -> Path:
    return studio.home.path / "settings.json"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
