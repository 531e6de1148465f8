"""The frame of the page in a real browser."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect

from tests.app.conftest import OpenPage, Server

pytestmark = pytest.mark.browser
PLACES = ("1 Images", "2 Setup", "3 Train", "4 Compare", "5 Adapters")


def test_a_first_visit_shows_the_five_places_and_the_machine(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    for name in PLACES:
        expect(page.get_by_role("tab", name=name)).to_be_visible()
    expect(page.get_by_role("tab", name="1 Images")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#header")).to_contain_text("GiB free")


def test_a_refresh_comes_back_to_the_place_that_was_shown(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.get_by_role("tab", name="4 Compare").click()
    page.wait_for_url("**place=compare*")
    page.reload()
    expect(page.get_by_role("tab", name="4 Compare")).to_have_attribute("aria-selected", "true")


def test_no_tab_holds_a_connection_of_which_a_browser_has_six(server: Server) -> None:
    assert httpx.get(f"{server.url}/config").json()["connect_heartbeat"] is False


def test_light_and_dark_are_switched_and_remembered(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    switch = page.get_by_role("button", name="Switch between light and dark")
    switch.click()
    expect(page.locator("body")).to_have_class("dark")
    page.reload()
    expect(page.locator("body")).to_have_class("dark")
