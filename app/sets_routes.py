"""``/sets/...``: what the place Images does to the sets on disk. The gate lets none but our own pages in.

Answers are JSON; one with a status of 400 and above has an `error`, which is a sentence for a person.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.caption_edits import Edit, changed, own_captions
from app.draft_set import choose_set
from app.image_sets import ImageSets, NoSuchSetError, SetFullError, StoredSet
from app.intake import Intake, NoSuchZipError, is_zip, most_bytes, too_large
from app.more_sets import follow_prompt
from app.set_uses import SetInUseError, refuse_while_used, runs_with
from app.studio import Studio
from trainer.failures import ExplainedError, classify

AT_ONCE = 2  # pictures that are decoded: one of 64 megapixels takes 200 MB
DRAINED = 150 * 2**20  # read and thrown away of a file that is too large: a browser reads no answer before it has sent
UNPROCESSABLE, NO_ROOM = 422, 507


class Asked(Edit):
    """`is_preview`: say what would change, and change nothing."""

    is_preview: bool = False


class Named(BaseModel):
    name: str


class Prompt(BaseModel):
    prompt: str


class Captions(BaseModel):
    """Captions by picture; `expected`: what they must be for the change to be made."""

    captions: dict[str, str]
    expected: dict[str, str] = {}


class TooLargeError(ExplainedError):
    """More bytes than are taken at once."""


STATUS: Mapping[type[Exception], int] = {
    NoSuchSetError: 404,
    NoSuchZipError: 404,
    SetFullError: 409,
    SetInUseError: 409,
    TooLargeError: 413,
}


class Telling(APIRoute):
    """Errors that say what is wrong, and a full disk, as an answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def telling(request: Request) -> Response:
            try:
                return await handler(request)
            except ExplainedError as error:
                return _told(str(error), STATUS.get(type(error), UNPROCESSABLE))
            except OSError as error:
                failure = classify(error)
                if failure.category != "disk full":
                    raise
                return _told(f"{failure.sentence} Free some space, then try again.", NO_ROOM)

        return telling


def _told(text: str, status: int) -> JSONResponse:
    return JSONResponse({"error": text.strip()}, status)


def sets_routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/sets", route_class=Telling)
    _routes_of_sets(router, studio)
    _routes_of_pictures(router, studio)
    _routes_of_files(router, ImageSets(studio.sets), Intake(studio.incoming))
    return router


def _routes_of_sets(router: APIRouter, studio: Studio) -> None:
    sets = ImageSets(studio.sets)

    @router.post("")
    def create(asked: Named) -> dict[str, str]:
        stored = sets.create(asked.name)
        choose_set(studio, stored.id)
        return {"id": stored.id}

    @router.post("/{set_id}/choose")
    def choose(set_id: str) -> None:
        choose_set(studio, sets.find(set_id).id)

    @router.post("/{set_id}/rename")
    def rename(set_id: str, asked: Named) -> None:
        sets.rename(set_id, asked.name)

    @router.post("/{set_id}/duplicate")
    def duplicate(set_id: str) -> None:
        choose_set(studio, sets.duplicate(set_id).id)

    @router.get("/{set_id}/runs")
    def runs(set_id: str) -> list[str]:
        return [entry.run.id for entry in runs_with(studio, sets.find(set_id).folder)]

    @router.post("/{set_id}/delete")
    def delete(set_id: str) -> dict[str, str]:
        refuse_while_used(studio, sets.find(set_id).folder)
        return {"thrown": sets.delete(set_id)}

    @router.post("/trash/{thrown}/restore")
    def restore(thrown: str) -> None:
        choose_set(studio, sets.restore(thrown).id)

    _ = create, choose, rename, duplicate, runs, delete, restore


def _routes_of_pictures(router: APIRouter, studio: Studio) -> None:
    sets = ImageSets(studio.sets)

    @router.post("/{set_id}/prompt")
    def prompt(set_id: str, asked: Prompt) -> None:
        stored = sets.find(set_id)
        before = stored.file.prompt
        stored.set_prompt(asked.prompt)
        follow_prompt(studio, stored.folder, before, stored.file.prompt)

    @router.post("/{set_id}/captions")
    def captions(set_id: str, asked: Captions) -> dict[str, str]:
        stored = sets.find(set_id)
        return {
            name: _set_caption(stored, name, text, asked.expected.get(name)) for name, text in asked.captions.items()
        }

    @router.post("/{set_id}/edit")
    def edit(set_id: str, asked: Asked) -> dict[str, object]:
        stored = sets.find(set_id)
        before = own_captions(stored)
        after = changed(before, asked)
        if not asked.is_preview:
            for name, text in after.items():
                stored.set_caption(name, text)
        first = next(iter(after), None)
        example = None if first is None else [before[first], after[first]]
        return {"of": len(before), "example": example, "before": {name: before[name] for name in after}, "after": after}

    @router.post("/{set_id}/pictures/{name}/remove")
    def remove(set_id: str, name: str) -> None:
        sets.find(set_id).remove(name)

    @router.post("/{set_id}/pictures/{name}/restore")
    def restore(set_id: str, name: str) -> None:
        sets.find(set_id).restore(name)

    _ = prompt, captions, edit, remove, restore


def _set_caption(stored: StoredSet, name: str, text: str, expected: str | None) -> str:
    """The caption as it is then. One that is not what was expected has been changed by somebody else, and stays."""
    if expected is None or stored.own_caption(name) == expected:
        stored.set_caption(name, text)
    return stored.own_caption(name)


def _routes_of_files(router: APIRouter, sets: ImageSets, intake: Intake) -> None:
    limiter = CapacityLimiter(AT_ONCE)

    @router.post("/{set_id}/files")
    async def file(set_id: str, name: str, request: Request) -> dict[str, object]:
        stored = sets.find(set_id)
        with intake.waiting() as folder:
            path = folder / "upload"
            await _receive(request, path, most_bytes(name))
            if is_zip(name):
                kept, contents = await to_thread.run_sync(intake.keep_zip, path)
                return {"zip": kept, **asdict(contents)}
            return asdict(await to_thread.run_sync(intake.take, stored, path, name, limiter=limiter))

    @router.post("/{set_id}/zip/{kept}/{index}")
    async def member(set_id: str, kept: str, index: int) -> dict[str, object]:
        stored = sets.find(set_id)
        return asdict(await to_thread.run_sync(intake.take_member, stored, kept, index, limiter=limiter))

    @router.post("/zip/{kept}/forget")
    def forget(kept: str) -> None:
        intake.forget_zip(kept)

    _ = file, member, forget


async def _receive(request: Request, path: Path, most: int) -> None:
    """The body, into the file. Raises TooLargeError."""
    received = 0
    with open(path, "wb") as out:
        async for chunk in request.stream():
            received += len(chunk)
            if received > most + DRAINED:
                break
            if received <= most:
                out.write(chunk)
    if received > most:
        raise TooLargeError(*too_large(most))
