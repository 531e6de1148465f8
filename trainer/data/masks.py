"""Which part of a picture counts: its alpha channel, or a grey picture of the same name in another folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from trainer.config_data import ALPHA
from trainer.data.scan import DAMAGE, FORMATS, ImageSet, Picture, open_upright, picture_files


@dataclass(frozen=True)
class Mask:
    """Of one picture. `path`: the picture itself where its own alpha channel is the mask."""

    path: Path
    is_alpha: bool
    sha256: str  # of the file
    size: tuple[int, int]  # upright, in pixels
    is_empty: bool  # nothing counts


@dataclass(frozen=True)
class Masks:
    """Those of a set by picture; pictures without one count as a whole."""

    by_picture: Mapping[Path, Mask]
    missing: tuple[Path, ...]
    problems: tuple[str, ...]


def find_masks(images: ImageSet, source: str) -> Masks:
    """`source`: "alpha", or a folder with a mask for each picture, named as it is but for the suffix."""
    if source == ALPHA:
        return _checked(images, {one.path: one.path for one in images.pictures if one.is_transparent}, True)
    folder = Path(source)
    if not folder.is_dir():
        return Masks({}, (), (f"there is no folder {source!r}, give one, or {ALPHA}",))
    by_stem = {path.stem: path for path in picture_files(folder)}
    return _checked(images, {one.path: by_stem[one.path.stem] for one in images.pictures if one.path.stem in by_stem})


def open_mask(mask: Mask) -> Image.Image:
    """In grey, upright: white counts. Raises one of DAMAGE."""
    return _open(mask.path, mask.is_alpha)


def _open(path: Path, is_alpha: bool) -> Image.Image:
    if not is_alpha:
        return open_upright(path, "#000000").convert("L")
    with Image.open(path, formats=FORMATS) as image:
        return ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")


def _checked(images: ImageSet, files: Mapping[Path, Path], is_alpha: bool = False) -> Masks:
    masks: dict[Path, Mask] = {}
    problems: list[str] = []
    for picture in images.pictures:
        if (file := files.get(picture.path)) is None:
            continue
        stat = file.stat()
        looked_at = _look_at(file, is_alpha, stat.st_mtime_ns, stat.st_size)
        if problem := _problem(picture, file, looked_at):
            problems.append(problem)
        elif looked_at is not None:
            masks[picture.path] = looked_at
    missing = tuple(picture.path for picture in images.pictures if picture.path not in files)
    return Masks(masks, missing, tuple(problems))


@lru_cache(maxsize=4096)
def _look_at(path: Path, is_alpha: bool, modified_ns: int, size_bytes: int) -> Mask | None:
    """None for what cannot be read. The numbers tell versions apart: a plan is made again with every key typed."""
    try:
        image = _open(path, is_alpha)
    except DAMAGE:
        return None
    return Mask(path, is_alpha, hashlib.sha256(path.read_bytes()).hexdigest(), image.size, image.getextrema()[1] == 0)


def _problem(picture: Picture, file: Path, mask: Mask | None) -> str:
    if mask is None:
        return f"the mask {file.name} cannot be read: save it as PNG"
    if mask.size != (picture.width, picture.height):
        sizes = f"{mask.size[0]}x{mask.size[1]}, {picture.path.name} {picture.width}x{picture.height}"
        return f"the mask {file.name} is {sizes}: make both the same size"
    if mask.is_empty:
        return f"the mask of {picture.path.name} leaves nothing of it: draw it anew, or take the picture out"
    return ""
