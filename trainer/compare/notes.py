"""What the pictures of a comparison alone would not tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_core.consumers import BY_KEY
from trainer.compare.manifest import FILES, ColumnEntry

# Where a program's strength is no straight line from the base model to the adapted one; the formulas are in
# dora_core/consumers.py.
_STRENGTH = {
    "lycoris": "LyCORIS lets the strength reach the magnitudes only; at 0 the low-rank update is still there",
    "diffusers": "diffusers lets the strength reach the low-rank update only; at 0 the magnitudes still count",
}


def notes_on(columns: Sequence[ColumnEntry], foreign: Sequence[str]) -> tuple[str, ...]:
    """`foreign`: titles of the files that state another base model."""
    return (*_on_strength(columns), *_on_checkpoints(columns), *map(_on_another_base, foreign))


def _on_strength(columns: Sequence[ColumnEntry]) -> Iterator[str]:
    bent = [column for column in columns if column.kind == "dora" and column.strength != 1 and _is_bent(column)]
    for consumer, rule in _STRENGTH.items():
        titles = [column.title for column in bent if column.consumer == consumer]
        if titles:
            yield f"{'; '.join(titles)}: {rule}, and it is not the base model. The pictures show what it does."


def _is_bent(column: ColumnEntry) -> bool:
    return column.consumer is not None and not BY_KEY[column.consumer].interpolates


def _on_checkpoints(columns: Sequence[ColumnEntry]) -> Iterator[str]:
    files = {column.file: column.source for column in columns if column.file and column.file.startswith(f"{FILES}/")}
    for file, source in files.items():
        yield f"{source}: drawn from {file}, which was exported from the checkpoint for this comparison."


def _on_another_base(title: str) -> str:
    return f"{title}: made on another base model than the one that everything here is drawn with."
