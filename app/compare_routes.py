"""``/compare/...``: what the place Compare asks for. Answers are JSON, or an `error`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from app.compare_form import Asked, count, draw
from app.comparisons import shown
from app.jobs import end
from app.sets_routes import Telling
from app.studio import Studio


class Named(BaseModel):
    id: str


def compare_routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/compare", route_class=Telling)

    @router.post("/count")
    def counted(asked: Asked) -> dict[str, int]:
        return count(studio, asked)

    @router.post("/draw")
    def drawn(asked: Asked) -> dict[str, str]:
        return {"job": draw(studio, asked).id}

    @router.post("/end")
    def ended(asked: Named) -> None:
        end(studio.home, asked.id)

    @router.get("/shown")
    def one(key: str) -> dict[str, Any]:
        return shown(studio, key)

    _ = counted, drawn, ended, one
    return router
