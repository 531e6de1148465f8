"""``/adapters/...``: what the place Adapters asks for. Answers are JSON or a download, or an `error`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.adapter_files import NameTakenError, delete, find, rename, restore
from app.adapter_scenes import offer, picture_with_workflow, workflow_for
from app.adapters_view import export
from app.comfyui_folder import copy
from app.jobs import end
from app.sets_routes import Telling
from app.studio import Studio
from app.what_is import MOST_BYTES, NotKnownError, of_header, of_path

Text = Field(default="", max_length=4096)


class Chosen(BaseModel):
    key: str = Text


class Named(Chosen):
    name: str = Text


class Copied(Named):
    folder: str = Text


class Exported(BaseModel):
    run: str = Text
    target: str = Text
    key: str = Text


class Placed(BaseModel):
    path: str = Text


class Job(BaseModel):
    id: str = Text


def adapters_routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/adapters", route_class=Telling)
    _routes_of_files(router, studio)
    _routes_of_workflows(router, studio)
    _routes_of_inspection(router, studio)
    return router


def _routes_of_files(router: APIRouter, studio: Studio) -> None:
    @router.post("/export")
    def exported(asked: Exported) -> dict[str, str]:
        return {"job": export(studio, asked.run, asked.target, asked.key)}

    @router.post("/end")
    def ended(asked: Job) -> None:
        end(studio.home, asked.id)

    @router.post("/copy")
    def copied(asked: Copied) -> dict[str, Any]:
        """`taken`: another file has the name, and another one is asked for."""
        try:
            return {"told": copy(studio, find(studio, asked.key), asked.folder, asked.name), "taken": False}
        except NameTakenError as error:
            return {"told": str(error), "taken": True}

    @router.post("/rename")
    def renamed(asked: Named) -> dict[str, str]:
        return {"key": rename(studio, asked.key, asked.name)}

    @router.post("/delete")
    def deleted(asked: Chosen) -> None:
        delete(studio, asked.key)

    @router.post("/restore")
    def restored(asked: Chosen) -> None:
        restore(studio, asked.key)

    _ = exported, ended, copied, renamed, deleted, restored


def _routes_of_workflows(router: APIRouter, studio: Studio) -> None:
    @router.get("/pictures")
    def pictures(file: str) -> dict[str, Any]:
        return offer(studio, find(studio, file))

    @router.get("/notes")
    def notes(file: str, picture: str) -> tuple[str, ...]:
        return workflow_for(studio, find(studio, file), picture)[1].notes

    @router.get("/workflow.json")
    def graph(file: str, picture: str) -> Response:
        found = find(studio, file)
        made = workflow_for(studio, found, picture)[1]
        return _saved(made.to_json().encode(), f"{found.path.stem}-workflow.json")

    @router.get("/workflow.png")
    def png(file: str, picture: str) -> Response:
        found = find(studio, file)
        return _saved(picture_with_workflow(*workflow_for(studio, found, picture)), f"{found.path.stem}-workflow.png")

    _ = pictures, notes, graph, png


def _routes_of_inspection(router: APIRouter, studio: Studio) -> None:
    @router.post("/what-is")
    def placed(asked: Placed) -> Mapping[str, Any]:
        return of_path(asked.path)

    @router.post("/what-is/header")
    async def dropped(name: str, size: int, request: Request) -> Mapping[str, Any]:
        head = bytearray()
        async for chunk in request.stream():
            head += chunk
            if len(head) > MOST_BYTES:
                raise NotKnownError("The header of this file is larger than any that we know.", "")
        return await to_thread.run_sync(of_header, studio, name, size, bytes(head))

    _ = placed, dropped


def _saved(content: bytes, name: str) -> Response:
    """To be saved, never shown."""
    named = f"attachment; filename*=UTF-8''{quote(Path(name).name)}"
    return Response(content, media_type="application/octet-stream", headers={"content-disposition": named})
