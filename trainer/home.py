"""The folder that runs and the queue live in: --home, else DORA_STUDIO_HOME, else the user's data folder."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import platformdirs

VARIABLE = "DORA_STUDIO_HOME"


@dataclass(frozen=True)
class Home:
    path: Path

    @staticmethod
    def find(option: Path | None = None) -> Home:
        chosen = option or os.environ.get(VARIABLE) or platformdirs.user_data_dir("dora-studio", appauthor=False)
        return Home(Path(chosen).expanduser().absolute())

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def queue(self) -> Path:
        return self.path / "queue"

    @property
    def worker_lock(self) -> Path:
        """One worker per machine; the folder may be shared by several."""
        return self.path / f"worker-{socket.gethostname()}.lock"

    @property
    def worker_log(self) -> Path:
        return self.path / f"worker-{socket.gethostname()}.txt"
