"""The list of runs at the side."""

from __future__ import annotations

from typing import Any

from app.live import Shown
from app.studio import Studio

MOST = 200


def entries(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the runs widget, the newest run first."""
    listed = studio.store.list_runs()[:MOST]
    runs = [
        {"id": entry.run.id, "state": entry.status.state, "step": entry.status.step, "steps": entry.status.steps}
        for entry in listed
    ]
    return {"chosen": shown.run_id, "runs": runs}
