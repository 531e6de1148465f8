"""The settings of runs, read again only where they changed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from trainer.config import RunConfig
from trainer.config_errors import ConfigError
from trainer.config_io import parse_config, read_toml
from trainer.run_dir import RunDir


def settings_of(run: RunDir) -> RunConfig | None:
    """None: they are gone, or of another version."""
    try:
        return _read(run.config_file, run.config_file.stat().st_mtime_ns)
    except (ConfigError, OSError):
        return None


@lru_cache(maxsize=1024)
def _read(file: Path, written: int) -> RunConfig:
    return parse_config(read_toml(file))
