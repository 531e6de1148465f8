"""Prior preservation: pictures of the class, drawn by the base model itself, counted and used again.

Trained along with their own weight they keep the model from taking every dog for yours (arXiv 2208.12242, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from dora_core.atomic import atomic_write
from trainer.data.scan import picture_files
from trainer.faults import crash_point
from trainer.sampling import save_png
from trainer.shot import Shot

Draw = Callable[[Shot], Image.Image]
Report = Callable[[int, int], None]  # done, total


def complete_class_pictures(folder: Path, count: int, shot: Shot, draw: Draw, report: Report) -> int:
    """Draw what is missing in `folder` to `count` pictures, each with a seed of its own; returns how many were drawn.

    Whatever pictures lie there count, also ones that a person put there. One that exists is never drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = max(count - len(picture_files(folder)), 0)
    names = (f"class-{number:05d}.png" for number in range(count + missing))
    free = [name for name in names if not (folder / name).exists()][:missing]
    for done, name in enumerate(free):
        report(count - missing + done, count)
        own = replace(shot, seed=int(name[6:11]))
        picture = draw(own)
        with atomic_write(folder / name) as file:
            save_png(picture, own, file)
        crash_point("prior.drawn")
    return missing
