"""What the place Images shows of a set, as values of its widgets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from app.draft_set import chosen_set, draft_training
from app.image_sets import LONGEST_CAPTION, MOST_PICTURES, ImageSets
from app.intake import MOST_BYTES, MOST_ZIP_BYTES, too_large
from app.live import Shown
from app.media import PICTURES, media_url
from app.picture_import import LONGEST_SIDE_PX
from app.set_file import SetFile
from app.studio import Studio
from app.tokens import TokenCount, count_tokens
from trainer.config import DataConfig
from trainer.data.buckets import Bucket, Placement, make_buckets, place
from trainer.data.captions import Caption, read_caption
from trainer.data.report import CUT_WORTH_TELLING, about_count
from trainer.data.scan import DAMAGE, FORMATS

THUMBNAIL_PX = 320
ATTEMPTS = 5
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Training:
    """What decides how pictures are seen: the draft's data settings and base model."""

    data: DataConfig
    base: str


def sets(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the widget that chooses a set."""
    chosen = chosen_set(studio)
    listed = ImageSets(studio.sets).list()
    return {
        "chosen": chosen.id if chosen else "",
        "sets": [{"id": stored.id, "name": stored.file.name, "count": len(stored.pictures())} for stored in listed],
    }


def upload(studio: Studio, shown: Shown) -> dict[str, Any]:
    chosen = chosen_set(studio)
    files, zips = ({"bytes": most, "words": " ".join(too_large(most))} for most in (MOST_BYTES, MOST_ZIP_BYTES))
    limits = {"file": files, "zip": zips, "side": LONGEST_SIDE_PX}
    return {"set": chosen.id if chosen else "", "limits": limits, "most": MOST_PICTURES}


def wording(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the widget for the prompt of the set and changes to all captions."""
    chosen = chosen_set(studio)
    return {"set": chosen.id, "prompt": chosen.file.prompt} if chosen else {"set": "", "prompt": ""}


def cards(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the cards: computed anew only when a file of the set, or how it is trained, has changed."""
    chosen = chosen_set(studio)
    if chosen is None:
        return {"set": "", "pictures": [], "count": "", "notices": [], "resolution": 0, "most": LONGEST_CAPTION}
    training = Training(*draft_training(studio))
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError):  # a file went while they were read
            return _cards(studio, chosen.id, _signature(chosen.folder), training)
    raise FileNotFoundError(f"{chosen.folder} changes faster than it can be read")


@lru_cache(maxsize=8)
def _cards(studio: Studio, set_id: str, signature: Signature, training: Training) -> dict[str, Any]:
    stored = ImageSets(studio.sets).find(set_id)
    changed = {name: (modified, size) for name, modified, size in signature}
    buckets = make_buckets(training.data.resolution_px, training.data.bucket_step_px, training.data.bucket_ratio)
    paths = [path for path in stored.pictures() if path.name in changed]
    file = stored.file
    pictures = [_card(studio, file, path, _size(path, *changed[path.name]), training, buckets) for path in paths]
    return {
        "set": set_id,
        "pictures": pictures,
        "count": _counted(pictures),
        "notices": about_count(len(pictures)),
        "resolution": training.data.resolution_px,
        "most": LONGEST_CAPTION,
    }


def _card(
    studio: Studio,
    file: SetFile,
    path: Path,
    size: tuple[int, int] | None,
    training: Training,
    buckets: tuple[Bucket, ...],
) -> dict[str, Any]:
    caption = read_caption(path, file.prompt)
    note = file.note(path.name)
    tokens = count_tokens(caption.text, training.base)
    placement = place(*size, buckets) if size else None
    can_show = size is not None and path.suffix.lower() in PICTURES  # what was put there by hand may be any file
    return {
        "id": path.name,
        "name": note.name,
        "thumbnail": media_url(studio, path, THUMBNAIL_PX) if can_show else "",
        "picture": media_url(studio, path) if can_show else "",
        "size": f"{size[0]}x{size[1]}" if size else "",
        "caption": caption.text if caption.file else "",
        "is_own": caption.file is not None,
        "prompt": file.prompt,
        "warnings": [*_about_shape(size, placement, training.data), *_about_caption(caption, tokens)],
        "told": note.told,
        "tokens": tokens.text,
        "seen": _seen(placement) if placement and can_show else None,
    }


def _seen(placement: Placement) -> Mapping[str, Any]:
    bucket = placement.bucket
    return {
        "bucket": [bucket.width, bucket.height],
        "scaled": placement.scaled,
        "at": [placement.left, placement.top],
        "kept": placement.kept,
    }


def _counted(pictures: list[dict[str, Any]]) -> str:
    without = sum(not picture["is_own"] for picture in pictures)
    warned = sum(bool(picture["warnings"]) for picture in pictures)
    parts = [f"{len(pictures)} picture{'' if len(pictures) == 1 else 's'}"]
    parts += [f"{without} without a caption"] if without else []
    parts += [f"{warned} with a warning"] if warned else []
    return ", ".join(parts)


def _about_shape(size: tuple[int, int] | None, placement: Placement | None, data: DataConfig) -> list[str]:
    if size is None or placement is None:
        return ["cannot be read: left out of training"]
    short, long = sorted(size)
    if short < data.smallest_side_px:
        return [f"too small ({size[0]}x{size[1]}): left out of training"]
    if long > data.longest_ratio * short:
        return [f"extreme shape ({size[0]}x{size[1]}): left out of training"]
    warnings: list[str] = []
    if placement.scaled[0] > size[0]:
        warnings.append(f"smaller than its training size {placement.bucket}: enlarged")
    if placement.kept < CUT_WORTH_TELLING:
        warnings.append(f"{1 - placement.kept:.0%} of it is cut off")
    return warnings


def _about_caption(caption: Caption, tokens: TokenCount) -> list[str]:
    if not caption.text:
        return ["no caption"]
    return ["caption too long: its end is not read"] if tokens.is_too_long else []


def _signature(folder: Path) -> Signature:
    """What changes with any file of the set."""
    with os.scandir(folder) as entries:
        stats = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=4096)
def _size(path: Path, modified_ns: int, size_bytes: int) -> tuple[int, int] | None:
    """Width and height when upright, from the header; None where there is none. The numbers tell versions apart."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            is_sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if is_sideways else image.size
    except DAMAGE:
        return None
