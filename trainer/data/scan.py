"""A folder of pictures, looked at one by one: what is used, what is left out and why, what was put right."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pi_heif import register_heif_opener
from PIL import ExifTags, Image, ImageCms, ImageColor, ImageOps

register_heif_opener(thumbnails=False)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "HEIF")  # none that starts another program
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif", ".heic", ".heif"}
)
STILLS = ("MPO", "HEIF")  # what phones write: other views beside the picture are no animation
REFUSED = {
    **dict.fromkeys((".svg", ".eps", ".ps", ".pdf", ".ai"), "drawings and documents are not read: save it as PNG"),
    **dict.fromkeys((".psd", ".xcf", ".kra"), "layered pictures are not read: save it as PNG"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"), "raw photos are not read: save it as JPEG"),
}
MAX_MEGAPIXELS = 64
# What Pillow raises for files that are not what they seem.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Picture:
    path: Path
    sha256: str  # of the file
    width: int  # upright, in pixels
    height: int
    mode: str  # as stored, in Pillow's words
    is_rotated: bool  # its EXIF says so; it is trained upright
    is_transparent: bool  # laid on the background
    is_animated: bool  # its first frame counts


@dataclass(frozen=True)
class LeftOut:
    path: Path
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """The pictures of a folder in the order of their names, and every file that looked like one but is not used."""

    folder: Path
    pictures: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]
    subfolders: tuple[str, ...] = ()  # not looked into


def picture_files(folder: Path) -> list[Path]:
    """Files that are pictures by name, readable or not, in the order of their names; [] where there is no folder."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    wanted = [path for path in files if path.suffix.lower() in SUFFIXES or path.suffix.lower() in REFUSED]
    return sorted(wanted, key=lambda path: (path.name.casefold(), path.name))


def scan(folder: Path, smallest_side_px: int = 1, longest_ratio: float = 100.0, workers: int = 4) -> ImageSet:
    """Read every picture in `folder` whole; of several with the same bytes the first by name counts.

    Shorter sides below `smallest_side_px` and shapes beyond `longest_ratio` : 1 are left out.
    """
    files = picture_files(folder)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        looked_at = list(pool.map(_look_at, files))
    pictures: dict[str, Picture] = {}
    left_out: list[LeftOut] = []
    for result in looked_at:
        reason = _unsuitable(result, pictures, smallest_side_px, longest_ratio) if isinstance(result, Picture) else None
        if isinstance(result, LeftOut):
            left_out.append(result)
        elif reason:
            left_out.append(LeftOut(result.path, reason))
        else:
            pictures[result.sha256] = result
    return ImageSet(folder, tuple(pictures.values()), tuple(left_out), tuple(_subfolders(folder)))


def open_upright(path: Path, background: str = "#ffffff") -> Image.Image:
    """The picture as it is trained: first frame, upright, sRGB in eight bits, on `background` where transparent.

    Raises one of DAMAGE for a file that cannot be read.
    """
    with Image.open(path, formats=FORMATS) as image:
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(_eight_bit(image))
    return _in_srgb(_without_transparency(upright, background), profile).convert("RGB")


def _look_at(path: Path) -> Picture | LeftOut:
    if reason := REFUSED.get(path.suffix.lower()):
        return LeftOut(path, reason)
    try:
        data = path.read_bytes()
        return LeftOut(path, "empty file") if not data else _decoded(path, data)
    except Image.UnidentifiedImageError:
        return LeftOut(path, "not a picture, whatever its name says")
    except Image.DecompressionBombError:
        return LeftOut(path, _too_large())
    except DAMAGE as error:
        return LeftOut(path, f"damaged ({error})")


def _decoded(path: Path, data: bytes) -> Picture | LeftOut:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_MEGAPIXELS * 1e6:
            return LeftOut(path, _too_large())
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size
        picture = Picture(
            path,
            hashlib.sha256(data).hexdigest(),
            width,
            height,
            image.mode,
            is_rotated=orientation in range(2, 9),
            is_transparent=image.has_transparency_data,
            is_animated=image.format not in STILLS and getattr(image, "is_animated", False),
        )
        image.draft("RGB", (image.width // 8, image.height // 8))  # JPEG: all bytes are read, few pixels are made
        image.load()
    return picture


def _too_large() -> str:
    return f"more than {MAX_MEGAPIXELS} megapixels: scale it down"


def _unsuitable(picture: Picture, seen: dict[str, Picture], smallest_side_px: int, longest_ratio: float) -> str | None:
    short, long = sorted((picture.width, picture.height))
    size = f"{picture.width}x{picture.height}"
    if picture.sha256 in seen:
        return f"the same picture as {seen[picture.sha256].path.name}"
    if picture.mode == "F":
        return "floating point pixels without a known range: save it with 8 or 16 bits"
    if short < smallest_side_px:
        return f"too small: {size}, data.smallest_side_px is {smallest_side_px}"
    if long > longest_ratio * short:
        return f"extreme shape: {size}, data.longest_ratio is {longest_ratio:g}"
    return None


def _subfolders(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from sorted(path.name for path in folder.iterdir() if path.is_dir() and picture_files(path))


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; Pillow's own conversion cuts it off at 255, which is white nearly everywhere."""
    if not image.mode.startswith("I"):
        return image
    scaled = image.convert("I").point(lambda value: value * (1 / 257))
    return _with_exif_of(image, scaled.convert("L"))


def _with_exif_of(image: Image.Image, converted: Image.Image) -> Image.Image:
    converted.info = image.info
    return converted


def _without_transparency(image: Image.Image, background: str) -> Image.Image:
    """Hidden colours below full transparency must not show."""
    if not image.has_transparency_data:
        return image
    below = Image.new("RGBA", image.size, ImageColor.getrgb(background))
    return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the colour profile that the picture carries; one that is broken or of another mode counts as none."""
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image
