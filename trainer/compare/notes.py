"""What the pictures of a comparison alone would not tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_core.consumers import BY_KEY
from trainer.compare.manifest import FILES, ColumnEntry

# Where a program's strength is no straight line from the base model to the adapted one; the formulas are in
# dora_core/consumers.py.
_STRENGTH = {
    "lycoris": "LyCORIS lets the strength reach the magnitudes only: at 0 the low-rank update is still there",
    "diffusers": "diffusers lets the strength reach the low-rank update only: at 0 the magnitudes still count",
}


def notes_on(columns: Sequence[ColumnEntry], foreign: Sequence[str]) -> tuple[str, ...]:
    """`foreign`: titles of the files that state another base model."""
    return (*_on_strength(columns), *_on_checkpoints(columns), *map(_on_another_base, foreign))


def _on_strength(columns: Sequence[ColumnEntry]) -> Iterator[str]:
    for column in columns:
        if column.consumer is None or column.kind != "dora" or column.strength == 1:
            continue
        if not BY_KEY[column.consumer].interpolates:
            rule = _STRENGTH[column.consumer]
            yield f"{column.title}: {rule}. The picture is what {column.program} draws, at 0 not the base model's."


def _on_checkpoints(columns: Sequence[ColumnEntry]) -> Iterator[str]:
    files = {column.file: column.title for column in columns if column.file and column.file.startswith(f"{FILES}/")}
    for file, title in files.items():
        yield f"{title}: drawn from {file}, which was exported from the checkpoint for this comparison."


def _on_another_base(title: str) -> str:
    return f"{title}: made on another base model than the one that everything here is drawn with."
