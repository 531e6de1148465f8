"""The place Images, as tests find their way about it."""

from __future__ import annotations

import httpx
from playwright.sync_api import FilePayload, Locator, Page

from app.image_sets import StoredSet
from tests.app.conftest import Server

REFUSED = "Failed to load resource"  # what Chromium writes of an answer with a status of 400 and above


def send(server: Server, cats: StoredSet, name: str, data: bytes) -> None:
    httpx.post(f"{server.url}/sets/{cats.id}/files", params={"name": name}, content=data).raise_for_status()


def payload(name: str, data: bytes, kind: str = "application/octet-stream") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def images(page: Page) -> Page:
    page.get_by_role("tab", name="1 Images").click()
    page.wait_for_selector("#captions [data-rev]")
    return page


def cards(page: Page) -> Locator:
    return page.locator("#captions .card")


def caption(page: Page, name: str) -> Locator:
    return page.get_by_label(f"Caption of {name}")


def captions_on_disk(cats: StoredSet) -> list[str]:
    return [cats.own_caption(path.name) for path in cats.pictures()]
