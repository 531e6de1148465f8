"""Files that are there whole or not at all. Free of torch."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ATTEMPTS = 20
WAIT_SECONDS = 0.025


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
    """A file to write to: it takes the place of `path` when the block ends, and is gone when the block fails."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace(source: Path, target: Path, rename: Callable[[Path, Path], object] = os.replace) -> None:
    """Rename over `target`. Windows refuses while anyone has either file open, so readers are given half a second."""
    for _ in range(ATTEMPTS - 1):
        try:
            rename(source, target)
        except PermissionError:
            time.sleep(WAIT_SECONDS)
        else:
            return
    rename(source, target)
