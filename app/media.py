"""Pictures and files for the browser, from the home folder and from nowhere else.

Gradio would serve whole folders with any type, scripts included. These routes know three places, sets, runs and grids;
they resolve links before they look, go by a list of endings, and never answer with something that a browser would run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse
from PIL import Image

from app.studio import Studio
from dora_core.atomic import atomic_write
from trainer.data.scan import DAMAGE, open_upright

PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
}
DOWNLOADS = frozenset({".safetensors", ".json", ".html", ".zip", ".toml", ".txt", ".jsonl", *PICTURES})
WIDTHS = frozenset({160, 320, 640})  # of thumbnails: few, so that nobody can fill the disk with them
# An address that ends with ?v= names one version of a file; without it the browser asks each time whether it changed.
FOREVER, ASK = "private, max-age=31536000, immutable", "private, no-cache"


def media_routes(studio: Studio) -> APIRouter:
    """``/media/...`` shows pictures (``?w=320`` small), ``/download/...`` saves files; below sets/, runs/ or grids/."""
    router = APIRouter()

    @router.get("/media/{place}/{path:path}")
    def media(place: str, path: str, w: int | None = None, v: str | None = None) -> FileResponse:  # pyright: ignore[reportUnusedFunction] - registered
        file = find(studio, place, path, frozenset(PICTURES))
        if w is not None:
            if w not in WIDTHS:
                raise HTTPException(404)
            file = thumbnail(studio, file, w)
        headers = {"cache-control": FOREVER if v else ASK}
        return FileResponse(file, media_type=PICTURES[file.suffix.lower()], headers=headers)

    @router.get("/download/{place}/{path:path}")
    def download(place: str, path: str) -> FileResponse:  # pyright: ignore[reportUnusedFunction] - registered
        file = find(studio, place, path, DOWNLOADS)
        return FileResponse(file, media_type="application/octet-stream", filename=file.name)

    return router


def find(studio: Studio, place: str, path: str, endings: frozenset[str]) -> Path:
    """The file at that place; raises 404 for whatever is not a plain file inside it with one of the endings."""
    try:
        root = _places(studio)[place].resolve(strict=True)
        file = (root / path).resolve(strict=True)
    except (KeyError, OSError, ValueError, RuntimeError):  # ValueError: a NUL; RuntimeError: links in a circle
        raise HTTPException(404) from None
    if not file.is_relative_to(root) or not file.is_file() or file.suffix.lower() not in endings:
        raise HTTPException(404)
    return file


def media_url(studio: Studio, file: Path, width: int | None = None) -> str:
    """The address of a picture below one of the places, which changes with the file."""
    stat = file.stat()
    version = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
    small = f"&w={width}" if width else ""
    return f"{_address(studio, file, 'media')}?v={version}{small}"


def download_url(studio: Studio, file: Path) -> str:
    return _address(studio, file, "download")


def thumbnail(studio: Studio, file: Path, width: int) -> Path:
    """A small WebP of the picture, upright, made once for each version of the file. Raises 404 for a damaged one."""
    stat = file.stat()
    name = hashlib.sha256(f"{file}\0{stat.st_mtime_ns}\0{stat.st_size}\0{width}".encode()).hexdigest()
    small = studio.thumbnails / f"{name}.webp"
    if not small.exists():
        try:
            picture = open_upright(file)
        except DAMAGE:
            raise HTTPException(404) from None
        picture.thumbnail((width, width), Image.Resampling.LANCZOS)
        studio.thumbnails.mkdir(parents=True, exist_ok=True)
        with atomic_write(small) as out:
            picture.save(out, "WEBP", quality=85)
    return small


def _address(studio: Studio, file: Path, kind: str) -> str:
    for place, root in _places(studio).items():
        if file.is_relative_to(root):
            return f"/{kind}/{place}/{quote(file.relative_to(root).as_posix())}"
    raise ValueError(f"{file} lies in none of the places that a browser may read from")


def _places(studio: Studio) -> Mapping[str, Path]:
    return {"sets": studio.sets, "runs": studio.home.runs, "grids": studio.grids}
