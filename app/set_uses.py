"""Which runs train on a set's pictures."""

from __future__ import annotations

from pathlib import Path

from app.studio import Studio
from trainer.config_errors import ConfigError
from trainer.failures import ExplainedError
from trainer.store import Listed


class SetInUseError(ExplainedError):
    """A run that is at work needs the set."""


def runs_with(studio: Studio, folder: Path) -> list[Listed]:
    """Those that train on it, alone or among others, the newest first."""
    return [entry for entry in studio.store.list_runs() if folder.resolve() in _folders_of(studio, entry)]


def refuse_while_used(studio: Studio, folder: Path) -> None:
    """Raises SetInUseError while a run trains on the folder, or waits to."""
    for entry in runs_with(studio, folder):
        if entry.status.is_live or entry.status.state == "queued":
            raise SetInUseError(f"The run {entry.run.id} needs these pictures.", "Stop it first.")


def _folders_of(studio: Studio, entry: Listed) -> list[Path]:
    try:
        data = studio.store.config(entry.run).data
        return [images.folder.resolve() for images in (data, *data.more)]
    except (ConfigError, OSError):
        return []  # a run of another version, or one that was just deleted
