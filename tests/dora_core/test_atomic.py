"""A file takes the place of another whole, also where a reader holds that one open for a moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dora_core.atomic import ATTEMPTS, atomic_write, replace


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"new" * (1 // (file.write(b"first") - 5)))
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize("refusals", [0, 1, ATTEMPTS - 1, ATTEMPTS])
def test_a_rename_that_windows_refuses_for_a_moment_is_tried_again(tmp_path: Path, refusals: int) -> None:
    left = refusals

    def rename(source: Path, target: Path) -> None:
        """As on Windows: no, while a reader has the file open."""
        nonlocal left
        if left > 0:
            left -= 1
            raise PermissionError(13, "Access is denied", str(target))
        os.replace(source, target)

    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"new")
    old.write_bytes(b"old")
    if refusals == ATTEMPTS:
        with pytest.raises(PermissionError):
            replace(new, old, rename)
        assert old.read_bytes() == b"old"
    else:
        replace(new, old, rename)
        assert old.read_bytes() == b"new"
