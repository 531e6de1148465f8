"""What the header says of the machine: card, memory, temperature, disk."""

from __future__ import annotations

from typing import Any

from app.live import Shown
from app.studio import Studio
from trainer.devices import read_driver
from trainer.disk import free_bytes


def header(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the header widget: `chips`, each a text, a state (ok, warn, off) and what it means.

    `place` and `run` go into the address, so that a refresh comes back to what is shown.
    """
    chips = [*_cards(), _disk(free_bytes(studio.home.path))]
    return {"chips": chips, "place": shown.place, "run": shown.run_id}


def _cards() -> list[dict[str, str]]:
    cards = read_driver().cards
    if not cards:
        return [
            {"text": "no NVIDIA card", "state": "off", "hint": "Training runs on the processor: for the starter model."}
        ]
    return [{"text": card.name, "state": "ok", "hint": f"{card.total_mib / 1024:.0f} GiB"} for card in cards]


def _disk(free: int) -> dict[str, str]:
    gib = free / 2**30
    return {
        "text": f"{gib:.0f} GiB free",
        "state": "ok" if gib > 5 else "warn",
        "hint": "Free disk where runs are kept.",
    }
