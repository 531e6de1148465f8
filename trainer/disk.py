"""Room on the disk, asked for before it is needed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

MARGIN_BYTES = 256 * 2**20  # logs, samples, and whatever else writes to the same disk


class DiskFullError(OSError):
    """There is less room than the next write needs; nothing has been written."""


def free_bytes(path: Path) -> int:
    """Free on the disk of a path that need not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def require_free(path: Path, need_bytes: int, purpose: str, margin_bytes: int = MARGIN_BYTES) -> None:
    """Check that `need_bytes` and a margin are free where `path` is. Raises DiskFullError."""
    free = free_bytes(path)
    if free < need_bytes + margin_bytes:
        raise DiskFullError(
            errno.ENOSPC,
            f"{purpose} needs {mib(need_bytes)} and {mib(margin_bytes)} to spare, but {mib(free)} are free",
            str(path),
        )


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
