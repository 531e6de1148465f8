"""``/setup/...``: what the place Setup does to the draft. Answers are the place as it is then, or an `error`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.live import Shown
from app.more_sets import add_beside, repeat_beside
from app.sets_routes import Telling
from app.setup_form import choose_preset, edit, fill_from_run, reset, save_preset, undo
from app.setup_view import view
from app.start import start
from app.studio import Studio
from trainer.config_errors import ConfigError
from trainer.failures import ExplainedError

T = TypeVar("T")
SHOWN = Shown("setup", "")


class Typed(BaseModel):
    values: dict[str, str] = Field(max_length=200)


class Keys(BaseModel):
    keys: list[str] = Field(max_length=200)


class Chosen(BaseModel):
    name: str


class Key(BaseModel):
    key: str


class Repeated(BaseModel):
    folder: str
    repeats: int = Field(ge=0, le=1000)


def setup_routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/setup", route_class=Telling)
    _routes_of_the_draft(router, studio)
    _routes_of_presets(router, studio)
    _routes_of_more_sets(router, studio)

    @router.post("/start")
    def begin(asked: Key) -> dict[str, str]:
        begun = _explained(lambda: start(studio, asked.key))
        return {"run": begun[0].id}

    return router


def _routes_of_the_draft(router: APIRouter, studio: Studio) -> None:
    @router.post("/edit")
    def typed(asked: Typed) -> dict[str, Any]:
        edit(studio, asked.values)
        return view(studio, SHOWN)

    @router.post("/reset")
    def back(asked: Keys) -> dict[str, Any]:
        reset(studio, asked.keys)
        return view(studio, SHOWN)

    @router.post("/undo")
    def undone() -> dict[str, Any]:
        undo(studio)
        return view(studio, SHOWN)

    @router.post("/fill")
    def filled(asked: Chosen) -> dict[str, Any]:
        _explained(lambda: fill_from_run(studio, asked.name))
        return view(studio, SHOWN)


def _routes_of_presets(router: APIRouter, studio: Studio) -> None:
    @router.post("/preset")
    def chosen(asked: Chosen) -> dict[str, Any]:
        _explained(lambda: choose_preset(studio, asked.name))
        return view(studio, SHOWN)

    @router.post("/save-preset")
    def saved(asked: Chosen) -> dict[str, Any]:
        _explained(lambda: save_preset(studio, asked.name))
        return view(studio, SHOWN)


def _routes_of_more_sets(router: APIRouter, studio: Studio) -> None:
    @router.post("/beside/add")
    def added(asked: Chosen) -> dict[str, Any]:
        add_beside(studio, asked.name)
        return view(studio, SHOWN)

    @router.post("/beside/repeat")
    def repeated(asked: Repeated) -> dict[str, Any]:
        repeat_beside(studio, asked.folder, asked.repeats)
        return view(studio, SHOWN)


def _explained(act: Callable[[], T]) -> T:
    """What is wrong with settings, as an answer."""
    try:
        return act()
    except ConfigError as error:
        raise ExplainedError(str(error), "") from None
