"""``/train/...``: what the place Train asks of runs. Answers are JSON; one that refuses has an `error`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.known_runs import known_runs
from app.live import Shown
from app.run_actions import act, rename
from app.runs_list import found
from app.sets_routes import Telling
from app.studio import Studio
from app.train_view import card, curve
from trainer.config_errors import ConfigError
from trainer.failures import ExplainedError
from trainer.store import NoSuchRunError


class Asked(BaseModel):
    run: str = Field(max_length=300, pattern=r"^[^/\\]*$")
    name: str = Field(default="", max_length=1000)


def run_routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/train", route_class=Telling)

    @router.get("/runs")
    def runs(find: str = "") -> list[dict[str, Any]]:
        return found(studio, find)

    @router.get("/curve")
    def line(run: str) -> dict[str, Any]:
        known = known_runs(studio.home).find(run)
        if known is None:
            raise NoSuchRunError("This run is gone.", "")
        return curve(known)

    @router.post("/rename")
    def renamed(asked: Asked) -> dict[str, Any]:
        return _done(studio, asked.run, rename(studio, asked.run, asked.name))

    @router.post("/{action}")
    def done(action: str, asked: Asked) -> dict[str, Any]:
        try:
            said = act(studio, asked.run, action)
        except ConfigError as error:  # of a clone whose settings are of another version
            raise ExplainedError(str(error), "") from None
        return _done(studio, asked.run, said)

    return router


def _done(studio: Studio, run_id: str, said: str) -> dict[str, Any]:
    """What was done, and the card as it is then."""
    return {"said": said, "card": card(studio, Shown("train", run_id))}
