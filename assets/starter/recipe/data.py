"""Stages `fetch` and `render`: the pictures, one per concept in each of two styles.

The packages come from npm by name and exact version. Every concept that both styles draw is rendered once at
`RENDER_PX`, with its transparency, so that a composition (thing, background colour, size) is made when it is needed.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from .files import Failure, write_text, written_whole
from .profile import Workshop

PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "unicode-emoji-json": "0.9.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
}
RENDER_PX = 128
STYLES = ("flat", "3d")

GROUPS = (
    "Animals & Nature",
    "Food & Drink",
    "Activities",
    "Objects",
    "Travel & Places",
    "Smileys & Emotion",
)
# Series whose members differ by a clock hand or a shade of a face: a model this small would learn their average.
SERIES = re.compile(
    r"o.clock|-thirty|moon|arrow|suit$|heart|envelope|mailbox|speaker|lock(ed)?\b|globe|bubble|anger|banknote"
    r"|(1st|2nd|3rd) place|oncoming|cloud|sunrise|sunset|cityscape|notebook|spiral|chart|^file|book$|tray|ZZZ|dashing"
    r"|page|points|hammer and|with (sweat|tear|tongue|steam|open|rolling|raised|diagonal|peeking|hand)|face without"
)

SOUNDS_LIKE_A_VOWEL = re.compile(r"(?!uni|ewe)[aeiou]|hour|x-", re.IGNORECASE)


@dataclass(frozen=True)
class Concept:
    """A thing that both styles draw: its English name and where each package keeps its picture."""

    name: str
    group: str
    flat: str  # icon name in the Noto set
    solid: str  # file name in the Fluent set

    @property
    def phrase(self) -> str:
        """The name with its article, as captions use it."""
        head = re.split(r" (?:of|on|with) ", self.name)[0]
        if head.endswith("s") and not head.endswith(("ss", "us", "os", "is")):
            return self.name
        return ("an " if SOUNDS_LIKE_A_VOWEL.match(self.name) else "a ") + self.name


def fetch(shop: Workshop) -> None:
    """Download and unpack the three packages into ``work/packages``."""
    for name, version in PACKAGES.items():
        target = package_folder(shop.work, name)
        if not (target / "package.json").exists():
            _unpack(_npm_pack(name, version, shop.work), target)


def package_folder(work: Path, name: str) -> Path:
    return work / "packages" / name.replace("@", "").replace("/", "-")


def _npm_pack(name: str, version: str, work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise Failure(
            "npm was not found: install Node.js 18 or newer (nodejs.org, or `apt install npm`), then run again."
        )
    command = [npm, "pack", f"{name}@{version}", "--pack-destination", str(work), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "npm error" in line), done.stderr.strip()[:200])
        raise Failure(f"npm could not fetch {name}@{version} ({reason}): check the network connection, then run again.")
    return work / f"{name.replace('@', '').replace('/', '-')}-{version}.tgz"


def _unpack(archive: Path, target: Path) -> None:
    with written_whole(target, folder=True) as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        for item in (temporary / "package").iterdir():
            item.rename(temporary / item.name)
    archive.unlink()


def render(shop: Workshop) -> None:
    """Draw every concept in both styles into ``work/pictures``: the RGBA arrays and the list of concepts."""
    work, target = shop.work, shop.work / "pictures"
    if (target / "concepts.json").exists():
        return
    candidates = list(_in_both_styles(work))
    flat = _draw_all(candidates, work, "flat")
    keep = _without_lookalikes(candidates, flat)
    if len(keep) < 500:
        raise Failure(
            f"only {len(keep)} things are drawn in both styles, where over 700 were: the layout of the packages "
            f"under {work / 'packages'} has changed; use the versions {PACKAGES}."
        )
    chosen = [candidates[i] for i in keep]
    with written_whole(target, folder=True) as temporary:
        np.save(temporary / "flat.npy", flat[keep])
        np.save(temporary / "3d.npy", _draw_all(chosen, work, "3d"))
        write_text(temporary / "concepts.json", json.dumps([asdict(c) for c in chosen], indent=1, ensure_ascii=False))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Failure(f"{path} is missing: the package's layout has changed; use the versions {PACKAGES}.") from error


def _in_both_styles(work: Path) -> Iterator[Concept]:
    names = _read_json(package_folder(work, "unicode-emoji-json") / "data-by-emoji.json")
    icons = _read_json(package_folder(work, "@iconify-json/noto") / "chars.json")
    solid = package_folder(work, "@lobehub/fluent-emoji-3d") / "assets"
    ranked = sorted(
        names.items(), key=lambda item: GROUPS.index(item[1]["group"]) if item[1]["group"] in GROUPS else 99
    )
    for character, about in ranked:
        if about["group"] not in GROUPS or SERIES.search(about["name"]):
            continue
        code = "-".join(f"{ord(c):x}" for c in character)
        codes = (code, code.replace("-fe0f", ""))
        icon = next((icons[c] for c in codes if c in icons), None)
        file = next((f"{c}.webp" for c in codes if (solid / f"{c}.webp").exists()), None)
        if icon and file:
            yield Concept(about["name"], about["group"], str(icon), file)


def _draw_all(concepts: Sequence[Concept], work: Path, style: str) -> np.ndarray:
    """RGBA, not premultiplied: (concepts, RENDER_PX, RENDER_PX, 4), uint8."""
    if style == "3d":
        folder = package_folder(work, "@lobehub/fluent-emoji-3d") / "assets"
        opened = (Image.open(folder / c.solid).convert("RGBA") for c in concepts)
    else:
        opened = _draw_svgs(concepts, work)
    progress = tqdm(opened, total=len(concepts), desc=f"render {style}", unit="picture")
    return np.stack([np.asarray(_centred(image)) for image in progress])


def _draw_svgs(concepts: Sequence[Concept], work: Path) -> Iterator[Image.Image]:
    import resvg_py  # noqa: PLC0415 - only this stage needs it

    icons = _read_json(package_folder(work, "@iconify-json/noto") / "icons.json")["icons"]
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    for concept in concepts:
        svg = f'<svg {spaces} viewBox="0 0 128 128">{icons[concept.flat]["body"]}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256)
        yield Image.open(io.BytesIO(png)).convert("RGBA")


def _centred(image: Image.Image) -> Image.Image:
    """The drawing without its margins, centred, its longer side 84 % of the picture: the same place in both styles."""
    box = image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox() or (0, 0, *image.size)
    thing = image.crop(box)
    side = round(0.84 * RENDER_PX)
    ratio = side / max(thing.size)
    size = (max(1, round(thing.width * ratio)), max(1, round(thing.height * ratio)))
    thing = thing.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (RENDER_PX, RENDER_PX))
    canvas.paste(thing, ((RENDER_PX - size[0]) // 2, (RENDER_PX - size[1]) // 2))
    return canvas


def _without_lookalikes(concepts: Sequence[Concept], pictures: np.ndarray, least: float = 0.09) -> list[int]:
    """Indices in order, leaving out each drawing closer than `least` (mean abs. difference at 16 px) to a kept one."""
    things = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    small = interpolate(compose(things, torch.full((len(things), 3), 0.5)), size=16, mode="area").flatten(1) / 2
    kept: list[int] = []
    for index in range(len(concepts)):
        if not kept or (small[kept] - small[index]).abs().mean(1).min() > least * 0.5:
            kept.append(index)
    return kept


def compose(things: Tensor, colours: Tensor) -> Tensor:
    """Things over plain backgrounds. things: (n, 4, h, w) and colours: (n, 3), both 0..1 -> (n, 3, h, w), -1..1."""
    alpha = things[:, 3:]
    return (things[:, :3] * alpha + colours[:, :, None, None] * (1 - alpha)) * 2 - 1


@dataclass(frozen=True)
class Pictures:
    """The rendered concepts in memory. `flat` and `solid`: (concepts, 4, RENDER_PX, RENDER_PX), uint8."""

    concepts: list[Concept]
    flat: Tensor
    solid: Tensor

    @classmethod
    def load(cls, work: Path) -> Pictures:
        folder = work / "pictures"
        if not (folder / "concepts.json").exists():
            raise Failure(f"{folder} holds no pictures yet: run the stage `render` first.")
        concepts = [Concept(**c) for c in json.loads((folder / "concepts.json").read_text(encoding="utf-8"))]
        flat, solid = (torch.from_numpy(np.load(folder / f"{s}.npy")).permute(0, 3, 1, 2) for s in STYLES)
        return cls(concepts, flat.contiguous(), solid.contiguous())

    def draw(self, style: str, index: int, colour: Sequence[int], px: int, size: float = 1.0) -> Tensor:
        """One composition (3, px, px), -1..1: a thing at `size` of its normal size, centred on a plain colour."""
        thing = (self.flat if style == "flat" else self.solid)[index : index + 1].float() / 255
        thing[:, :3] *= thing[:, 3:]  # premultiplied, so that resizing does not bleed the colour of clear pixels
        inner = round(px * size)
        thing = interpolate(thing, size=inner, mode="bilinear", antialias=True, align_corners=False)
        before = (px - inner) // 2
        after = px - inner - before
        thing = torch.nn.functional.pad(thing, (before, after, before, after)).clamp(0, 1)
        background = torch.tensor(colour, dtype=torch.float32).div(255)[None, :, None, None]
        return ((thing[:, :3] + background * (1 - thing[:, 3:])) * 2 - 1)[0]


def picture(drawn: Tensor) -> Image.Image:
    """(3, h, w) in -1..1 as an 8-bit picture."""
    return Image.fromarray(drawn.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy())
