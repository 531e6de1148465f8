"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trainer.compare.request import RequestError
from trainer.faults import crash_point

UNFINISHED = ".tmp-"


@contextmanager
def new_folder(final: Path) -> Generator[Path, None, None]:
    """A folder to write to, which becomes `final` when the block ends, and is gone when the block fails.

    Raises RequestError where `final` has something in it, FileNotFoundError where its parent is not there.
    """
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise RequestError(f"{final} is there already.", "Name another folder with --out.")
    temporary = final.with_name(f"{UNFINISHED}{final.name}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        crash_point("compare.written")
        if final.exists():
            final.rmdir()
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
