"""The list of runs at the side."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.known_runs import Known, known_runs
from app.live import Shown
from app.studio import Studio

MOST = 200


def entries(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the runs widget, the newest run first; `total` counts those as well that are left out."""
    known = known_runs(studio.home).all()
    return {"chosen": shown.run_id, "runs": [_row(one) for one in known[:MOST]], "total": len(known)}


def found(studio: Studio, text: str) -> list[dict[str, Any]]:
    """The runs that have every word of a text in their name, id, kind, base model or state."""
    words = text.casefold().split()
    fitting = [one for one in known_runs(studio.home).all() if all(word in _text(one) for word in words)]
    return [_row(one) for one in fitting[:MOST]]


def _row(known: Known) -> dict[str, Any]:
    status = known.status
    return {
        "id": known.run.id,
        "name": known.name,
        "kind": known.kind,
        "pair": known.pair,
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "made": _made(known.run.id),
    }


def _text(known: Known) -> str:
    return f"{known.name} {known.run.id} {known.kind} {known.base} {known.status.state}".casefold()


def _made(run_id: str) -> str:
    """When, as ISO 8601; "" for a folder that somebody renamed."""
    try:
        return datetime.strptime(f"{run_id[:15]}+0000", "%Y-%m-%d-%H%M%z").isoformat()
    except ValueError:
        return ""
