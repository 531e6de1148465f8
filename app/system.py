"""What the header says of the machine: card, memory, temperature, disk."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from app.live import Shown
from app.studio import Studio
from trainer.devices import Card, Driver, read_driver
from trainer.disk import free_bytes
from trainer.doctor import WINDOWS_INDEX

SECONDS = 2.0  # between two questions to the driver, however many tabs ask
HOT_CELSIUS = 85
LOW_GIB = 5


@dataclass
class Machine:
    """What the driver said last."""

    driver: Driver = field(default_factory=Driver)
    read_at: float = -SECONDS
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> Driver:
        with self.lock:
            if time.monotonic() - self.read_at >= SECONDS:
                self.driver, self.read_at = read_driver(), time.monotonic()
            return self.driver


@cache
def machine() -> Machine:
    """The one of this process."""
    return Machine()


def header(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the header widget: `chips`, each a text, a state (ok, warn, off) and what it means.

    `place` and `run` go into the address, so that a refresh comes back to what is shown.
    """
    chips = [*cards(machine().now(), torch_version(), sys.platform), disk(free_bytes(studio.home.path))]
    return {"chips": chips, "place": shown.place, "run": shown.run_id}


def cards(driver: Driver, torch: str, platform: str) -> list[dict[str, str]]:
    """A chip for each card, or why there is none."""
    if not driver.cards:
        hint = "Training runs on the processor: enough for the starter model. If there is a card: "
        fix = f"install NVIDIA's driver ({driver.problem}), then `dora-studio doctor` tells what else is missing."
        return [_chip("no NVIDIA card", "off", hint + fix)]
    if torch.endswith("+cpu") or (platform == "win32" and "+" not in torch):  # PyPI's own for Windows
        index = f" --index-url {WINDOWS_INDEX}" if platform == "win32" else ""
        hint = f"torch {torch} cannot use the card: `pip install --force-reinstall torch{index}`, then restart."
        return [_chip(f"{card.name}: not used", "warn", hint) for card in driver.cards]
    return [_card(card, driver.version) for card in driver.cards]


@cache
def torch_version() -> str:
    """As installed, without importing it; "" where it is not."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def disk(free: int) -> dict[str, str]:
    gib = free / 2**30
    return _chip(f"{gib:.0f} GiB free", "ok" if gib > LOW_GIB else "warn", "Free disk where runs are kept.")


def _card(card: Card, driver: str) -> dict[str, str]:
    name = card.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    used, total = card.used_mib / 1024, card.total_mib / 1024
    hint = f"{card.name}, driver {driver}: memory used by all programs, of what it has, and its temperature."
    state = "warn" if card.celsius >= HOT_CELSIUS else "ok"
    return _chip(f"{name}  {used:.1f} / {total:.0f} GiB  {card.celsius} °C", state, hint)


def _chip(text: str, state: str, hint: str) -> dict[str, str]:
    return {"text": text, "state": state, "hint": hint}
