"""Locks of the operating system: free the moment their holder dies, however it dies, so nothing is ever repaired."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PROBES_ON_WINDOWS = 5


class LockHeldError(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def hold(path: Path, timeout_seconds: float = 2) -> Generator[None, None, None]:
    """Hold the lock for the block. It is waited for a little: a probe of is_locked may be on it.

    Raises LockHeldError.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_seconds, poll_interval=0.02)
    except Timeout:
        raise LockHeldError(f"another process holds {path}") from None
    try:
        yield
    finally:
        lock.release()


if sys.platform == "win32":

    def is_locked(path: Path) -> bool:
        """Whether a process holds the lock. Probes exclude each other here, so one that fails is tried again."""
        for _ in range(PROBES_ON_WINDOWS if path.exists() else 0):
            try:
                with hold(path, timeout_seconds=0):
                    return False
            except LockHeldError:
                time.sleep(0.01)
        return path.exists()

else:
    import fcntl

    def is_locked(path: Path) -> bool:
        """Whether a process holds the lock. The probe is a shared lock, so any number of them agree."""
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False
