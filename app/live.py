"""What follows the disk: once a second each shown widget is asked for its value, and sent only if that has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import gradio as gr

from app.studio import Studio
from app.widgets.widget import to_json

SECONDS = 1.0


@dataclass(frozen=True)
class Shown:
    """What one browser tab looks at."""

    place: str  # images, setup, train, compare or adapters
    run_id: str  # "" when there is none


@dataclass(frozen=True)
class Live:
    """A widget and where its value comes from. It is asked only while its place is shown; everywhere without one."""

    widget: gr.HTML
    value: Callable[[Studio, Shown], object]
    place: str | None = None


def changes(
    studio: Studio, lives: Sequence[Live], shown: Shown, seen: dict[int, str]
) -> tuple[dict[int, str], list[Any]]:
    """What was sent by now, and for each widget its new value or gr.skip()."""
    now = dict(seen)
    updates: list[Any] = []
    for number, live in enumerate(lives):
        if live.place not in (None, shown.place):
            updates.append(gr.skip())
            continue
        text = to_json(live.value(studio, shown))
        digest = blake2b(text.encode(), digest_size=16).hexdigest()
        updates.append(gr.skip() if seen.get(number) == digest else text)
        now[number] = digest
    return now, updates
