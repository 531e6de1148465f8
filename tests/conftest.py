"""What the tests of every package share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(autouse=True)
def _own_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of tests wait for nobody's: neither for those of other tests nor for the user's own."""
    monkeypatch.setenv("DORA_STUDIO_LOCKS", str(tmp_path / "devices"))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The browser that browser tests drive. Without one they are skipped; under CI, where one belongs, they fail."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    reason = f"none of {', '.join(BROWSERS)} is on the PATH: install one (Debian: apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
