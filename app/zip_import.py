"""A zip of pictures, member by member: nothing in it decides where anything is written, or how much."""

from __future__ import annotations

import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from app.picture_import import shown_name
from trainer.data.captions import SUFFIXES as CAPTIONS
from trainer.data.scan import REFUSED, SUFFIXES
from trainer.failures import ExplainedError

MOST_FILES = 1000  # as many pictures as a set holds, and a caption for each
MOST_BYTES = 2 * 2**30  # unpacked
MOST_RATIO = 200  # unpacked bytes by packed ones; what does not matter in a small file
SMALL_BYTES = 2**20
ARCHIVES = frozenset({".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz"})
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


class BadZipError(ExplainedError):
    """The archive is not opened at all, or the member not unpacked."""


@dataclass(frozen=True)
class Member:
    """A picture or a caption in a zip, by its place in it."""

    index: int
    name: str


@dataclass(frozen=True)
class Contents:
    members: tuple[Member, ...]  # pictures first, then captions
    left_out: tuple[tuple[str, str], ...]  # names, and why


def look_into(path: Path) -> Contents:
    """What can be taken from the zip; nothing is unpacked. Raises BadZipError."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except DAMAGE as error:
        raise BadZipError(f"damaged, or not whole ({error}).", "Make it again, or drop the folder itself.") from None
    _refuse_bombs(infos)
    if any(info.flag_bits & 1 for info in infos):
        raise BadZipError("locked with a password.", "Unpack it and drop the folder.")
    members: list[Member] = []
    left_out: list[tuple[str, str]] = []
    for index, info in enumerate(infos):
        name = shown_name(info.filename)
        if reason := _reason_against(info, name):
            left_out.append((name, reason))
        elif not _is_silent(info, name):
            members.append(Member(index, name))
    members.sort(key=lambda member: _suffix(member.name) in CAPTIONS)
    return Contents(tuple(members), tuple(left_out))


def unpack(path: Path, index: int, most_bytes: int) -> tuple[str, bytes]:
    """The name and the bytes of one member that `look_into` named. Raises BadZipError."""
    if all(member.index != index for member in look_into(path).members):
        raise BadZipError("nothing to unpack.", "")
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.infolist()[index]
            with archive.open(info) as member:
                data = member.read(most_bytes + 1)
    except DAMAGE as error:
        raise BadZipError(f"damaged in the zip ({error}).", "") from None
    if len(data) > most_bytes:
        raise BadZipError(f"larger than {most_bytes // 2**20} MB.", "Scale it down first.")
    return shown_name(info.filename), data


def _refuse_bombs(infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MOST_FILES:
        raise BadZipError(f"{len(infos)} files are in it, at most {MOST_FILES} are taken.", "Make smaller ones.")
    size = sum(info.file_size for info in infos)
    packed_well = [i for i in infos if i.file_size > max(SMALL_BYTES, MOST_RATIO * i.compress_size)]
    if size > MOST_BYTES or packed_well:
        raise BadZipError(
            f"it would unpack to {size / 2**20:,.0f} MB, which no pictures do.", "Unpack it yourself and look at it."
        )


def _reason_against(info: zipfile.ZipInfo, name: str) -> str | None:
    """Why a member is left out, if that has to be told."""
    if _suffix(name) in ARCHIVES:
        return "an archive within the archive is not opened"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link, not a file"
    if _is_silent(info, name) or _suffix(name) in (*SUFFIXES, *REFUSED, *CAPTIONS):
        return None
    return "neither a picture nor a caption"


def _is_silent(info: zipfile.ZipInfo, name: str) -> bool:
    """Folders, and what systems leave behind without anybody's knowing."""
    return info.is_dir() or name.startswith(".") or name in ("Thumbs.db", "desktop.ini") or "__MACOSX" in info.filename


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()
