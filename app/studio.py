"""What every page is built from: one home on disk, and where on it things lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.home import Home
from trainer.store import Store


@dataclass(frozen=True)
class Studio:
    """The folders that the page reads and writes. It holds no state: two servers on one home show the same."""

    home: Home

    @property
    def store(self) -> Store:
        return Store(self.home)

    @property
    def sets(self) -> Path:
        """Image sets, a folder each."""
        return self.home.path / "sets"

    @property
    def grids(self) -> Path:
        """Comparisons of files that belong to no run; those of runs lie in theirs."""
        return self.home.path / "grids"

    @property
    def thumbnails(self) -> Path:
        """May be deleted at any time."""
        return self.home.path / "cache" / "thumbnails"

    @property
    def uploads(self) -> Path:
        """Where Gradio keeps what was uploaded until it has been taken over; emptied by itself."""
        return self.home.path / "cache" / "uploads"

    @property
    def incoming(self) -> Path:
        """Where pictures wait while they are looked at."""
        return self.home.path / "cache" / "incoming"
