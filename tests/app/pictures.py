"""Pictures and archives of every odd kind, made where they are needed, and the way into a set."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from app.image_sets import StoredSet
from app.intake import Intake, Taken

OF_A_PHONE = Path(__file__).parent.parent / "trainer" / "phone.heic"


def picture(width: int = 96, height: int = 64, kind: str = "PNG", mode: str = "RGB", seed: int = 1) -> bytes:
    """No two pixels alike in a row, and another picture for each seed."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 7 % 256, y * 5 % 256, (x * y + 40 * seed) % 256) for y in range(height) for x in range(width)])
    return encoded(image.convert(mode), kind)


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)  # type: ignore[arg-type] - Pillow's own settings
    return out.getvalue()


def turned(width: int = 96, height: int = 64, place: str = "") -> bytes:
    """A JPEG whose EXIF says that it lies on its side, and whose left half is red; `place` is a comment of its own."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = place
    return encoded(image, "JPEG", exif=exif, quality=95)


def animation() -> bytes:
    frames = [Image.new("RGB", (80, 70), colour) for colour in ("red", "green")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def hidden_colours() -> bytes:
    """Black below full transparency."""
    return encoded(Image.new("RGBA", (80, 70), (0, 0, 0, 0)))


def claims(side: int) -> bytes:
    """A PNG that says it is a square of that side, and has no pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG with a text of 100 MB in a few kilobytes."""
    whole = picture()
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 100_000_000))
    return whole[:33] + text + whole[33:]


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def locked(data: bytes) -> bytes:
    """The zip with the mark of a password on its first member."""
    marked = bytearray(data)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        marked[marked.index(signature) + flags] |= 1
    return bytes(marked)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def give(intake: Intake, stored: StoredSet, data: bytes, name: str) -> Taken:
    with intake.waiting() as folder:
        path = folder / "upload"
        path.write_bytes(data)
        return intake.take(stored, path, name)


def names(stored: StoredSet) -> list[str]:
    """As a person called them."""
    return [stored.file.note(path.name).name for path in stored.pictures()]
