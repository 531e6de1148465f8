"""``/trash``: what is in it, and its end. What brings things back is where they were thrown away."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from app import trash
from app.sets_routes import Telling
from app.studio import Studio


def trash_routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/trash", route_class=Telling)

    @router.get("")
    def looked() -> dict[str, Any]:
        return trash.view(studio)

    @router.post("/empty")
    def emptied() -> dict[str, str]:
        return {"freed": trash.empty(studio)}

    _ = looked, emptied
    return router
