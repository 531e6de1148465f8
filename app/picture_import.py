"""A picture from outside becomes one of ours: looked at as training looks, put upright, encoded anew, shrunk.

Nothing of the file that came in is kept, so nothing that hides in it is either: place names, comments, programs.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from app.set_file import PictureNote
from trainer.data.captions import clean
from trainer.data.scan import REFUSED, SUFFIXES, Picture, open_upright, scan
from trainer.failures import ExplainedError

LONGEST_SIDE_PX = 2048
PLAIN_MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
LARGEST_PNG = 2 * 2**20  # bytes; above, what was stored without loss becomes a JPEG
LONGEST_NAME = 200  # characters


class BadPictureError(ExplainedError):
    """The file is no picture that can be used."""


@dataclass(frozen=True)
class Encoded:
    data: bytes
    suffix: str
    note: PictureNote


def take_in(path: Path, name: str) -> Encoded:
    """The picture at `path`, a file that lies alone in its folder; `name` is what a person calls it.

    Raises BadPictureError.
    """
    looked_at = _look_at(path)
    image = open_upright(path)
    pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    told = _told(looked_at)
    if max(image.size) > LONGEST_SIDE_PX:
        image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX), Image.Resampling.LANCZOS)
        told.append(f"scaled down from {looked_at.width}x{looked_at.height}")
    data, suffix = _encode(image, path.suffix in (".jpg", ".jpeg", ".jfif"))
    return Encoded(data, suffix, PictureNote(name=shown_name(name), pixels=pixels, told=told))


def suffix_of(name: str) -> str:
    """The ending that a file of that name gets while it is looked at. Raises BadPictureError for no picture's."""
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES and suffix not in REFUSED:
        kinds = "PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP and TIFF"
        raise BadPictureError("not a picture.", f"Pictures are {kinds}; captions are .txt.")
    return suffix


def shown_name(name: str) -> str:
    """The last part of a path, of any system, on one line and not longer than anybody reads."""
    last = clean(name.replace("\\", "/").rstrip("/").rpartition("/")[2])
    return last if len(last) <= LONGEST_NAME else f"{last[: LONGEST_NAME - 10]}...{last[-7:]}"


def _look_at(path: Path) -> Picture:
    found = scan(path.parent, longest_ratio=math.inf, workers=1)
    if not found.pictures:
        raise BadPictureError(f"{found.left_out[0].reason}.", "")
    return found.pictures[0]


def _told(picture: Picture) -> list[str]:
    facts = (
        (picture.is_rotated, "was stored turned: put upright"),
        (picture.is_animated, "animated: the first frame was taken"),
        (picture.is_transparent, "was transparent: laid on white"),
        (picture.mode not in PLAIN_MODES, f"converted from {picture.mode} to RGB"),
    )
    return [text for is_so, text in facts if is_so]


def _encode(image: Image.Image, is_jpeg: bool) -> tuple[bytes, str]:
    """What came as JPEG stays one; the rest is kept without loss as long as that is not large."""
    if not is_jpeg:
        png = io.BytesIO()
        image.save(png, "PNG")
        if len(png.getvalue()) <= LARGEST_PNG:
            return png.getvalue(), ".png"
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=95, subsampling=0)
    return jpeg.getvalue(), ".jpg"
