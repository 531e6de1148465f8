"""Pictures of the five places, dark, light and on a phone: ``python -m tests.app.screenshots OUT [--home FOLDER]``.

They show a twin run that was trained on the starter and the sample set. The first time that takes minutes; a home that
is kept in FOLDER is used again.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from app.frame import PLACES
from app.image_sets import ImageSets
from app.live import SECONDS
from app.studio import Studio
from tests.app.conftest import FLAGS, Server, running
from tests.app.twin_home import make_twin_home
from trainer.config_io import config_from
from trainer.home import Home

SCREENS = {"dark": (1440, 900, True), "light": (1440, 900, False), "phone": (390, 844, True)}
COLOURS = 256
PROMPTS = [
    "a cat face on a green background, 3d style",
    "a doughnut on a blue background, 3d style",
    "a tomato on a yellow background, 3d style",
    "a llama on an orange background, 3d style",
]
SETTINGS = ["name=3D icons", "data.instance_prompt=3d style", "train.twin=true", "sample.every_steps=50"]
IN_VIEW_ARE_THERE = """[...document.images].every((image) => {
  const { top, bottom } = image.getBoundingClientRect();
  return image.complete || !image.checkVisibility() || bottom < 0 || top > innerHeight;
})"""
NOTHING_MOVES = "*, ::before, ::after { animation: none !important; transition: none !important; }"


def screenshots(chromium: str, home: Path, out: Path) -> None:
    if not (home / "runs").is_dir():
        make_home(home)
    out.mkdir(parents=True, exist_ok=True)
    with running(home) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for place in PLACES:
            for screen in SCREENS:
                save(shot(browser, server, place, screen), out / f"{place}-{screen}.png")


def make_home(path: Path) -> None:
    studio = Studio(Home(path))
    ImageSets(studio.sets).offer_samples()
    prompts = ", ".join(f'"{prompt}"' for prompt in PROMPTS)
    settings = [*SETTINGS, f"data.folder={studio.sets / 'icons3d'}", f"sample.prompts=[{prompts}]"]
    make_twin_home(path, config_from({"preset": "starter-dora"}, settings))


def shot(browser: Browser, server: Server, place: str, screen: str) -> bytes:
    width, height, is_dark = SCREENS[screen]
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme="dark" if is_dark else "light")  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{server.url}/?place={place}")
    page.wait_for_selector(f"#place-{place} [data-rev]")
    page.add_style_tag(content=NOTHING_MOVES)
    ready(page)
    taken = page.screenshot()
    context.close()
    return taken


def ready(page: Page) -> None:
    """What comes with the second tick is there, and so is every picture that is in view, and every font."""
    page.wait_for_timeout(2 * SECONDS * 1000)
    page.evaluate("document.fonts.ready.then(() => null)")
    page.wait_for_function(IN_VIEW_ARE_THERE)


def save(taken: bytes, path: Path) -> None:
    """With a palette, a third of the bytes; `kmeans` lets small dots keep their colours."""
    with Image.open(io.BytesIO(taken)) as picture:
        quantized = picture.convert("RGB").quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    quantized.save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DORA_STUDIO_LOCKS"] = folder  # what else trains on this machine is not waited for
        screenshots(options.chromium, options.home or Path(folder) / "home", options.out)
