"""What follows the disk: once a second each shown widget is asked for its value, and sent only if that has changed."""

from __future__ import annotations

import json
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


def changes(studio: Studio, lives: Sequence[Live], shown: Shown, sent: str) -> tuple[str, list[Any]]:
    """What the tab has by now, and for each widget its new value or gr.skip().

    `sent`: what the tab has, which the tab itself keeps, since this process may be another one by the next second.
    """
    seen: list[str] = json.loads(sent) if sent else [""] * len(lives)
    updates: list[Any] = []
    for number, live in enumerate(lives):
        if live.place not in (None, shown.place):
            updates.append(gr.skip())
            continue
        text = to_json(live.value(studio, shown))
        digest = blake2b(text.encode(), digest_size=8).hexdigest()
        updates.append(gr.skip() if seen[number] == digest else text)
        seen[number] = digest
    return json.dumps(seen), updates
