"""Writing that is whole or not there at all, and failures that one sentence explains."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Failure(Exception):
    """What went wrong and what to do, in one sentence; `build.py` prints it without a trace."""


@contextmanager
def written_whole(target: Path, folder: bool = False) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target` when the block ends well, and is removed otherwise."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if folder:
            temporary.mkdir()
        yield temporary
        if folder and target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    except Exception as error:
        if _is_disk_full(error):
            raise Failure(f"the disk is full while writing {target}: free some space, then run again.") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _is_disk_full(error: Exception) -> bool:
    """Whether `error` tells of a full disk or a spent quota; safetensors says it in words only."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or any(f"os error {number}" in str(error) for number in full)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save(path: Path, state: dict[str, Any]) -> None:
    whole = io.BytesIO()  # torch's own file writer hides the reason when a disk is full
    torch.save(state, whole)
    with written_whole(path) as temporary:
        temporary.write_bytes(whole.getbuffer())
