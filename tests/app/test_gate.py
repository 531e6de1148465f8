"""Who the server answers to: hosts, origins, tokens, and what it never does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

from app.gate import COOKIE, POLICY, WRONG_TOKEN_SECONDS, Access
from app.server import listening
from tests.app import pictures
from tests.app.conftest import OpenPage, Server, running

README = Path(__file__).parent.parent.parent / "app" / "README.md"
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    """Reachable from other machines, so with a token."""
    with running(tmp_path_factory.mktemp("open"), "--listen", "--token", TOKEN) as started:
        yield started


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "192.168.1.5", "localhost.evil.example", "", "["]
)
def test_a_host_that_is_not_this_machine_is_misdirected(server: Server, host: str) -> None:
    answer = httpx.get(server.url, headers={"host": host})
    assert answer.status_code == 421
    assert "gradio" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST"])
def test_this_machine_may_be_called_by_each_of_its_names(server: Server, host: str) -> None:
    assert httpx.get(server.url, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("path", "method"),
    [("/", "GET"), ("/gradio_api/queue/join", "POST"), ("/gradio_api/upload", "POST"), ("/config", "GET")],
)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1.evil.example"]
)
def test_another_origin_is_refused(server: Server, path: str, method: str, origin: str) -> None:
    answer = httpx.request(method, server.url + path, headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_a_request_that_a_browser_marks_as_foreign_is_refused_unless_somebody_follows_a_link(server: Server) -> None:
    foreign = {"sec-fetch-site": "cross-site"}
    assert httpx.get(server.url, headers=foreign | {"sec-fetch-mode": "no-cors"}).status_code == 403
    visit = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert httpx.get(server.url, headers=foreign | visit).status_code == 200
    assert httpx.post(server.url, headers=foreign | visit).status_code == 403
    framed = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    assert httpx.get(server.url, headers=foreign | framed).status_code == 403


def test_every_answer_says_what_a_browser_may_do_with_it(server: Server) -> None:
    for path in ("/", "/media/runs/none.png", "/config"):
        headers = httpx.get(server.url + path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://127.0.0.1:1/secret",
        "/gradio_api/file=https%3A//example.com",
        "/gradio_api/proxy=https://example.com",
        "/file=http://example.com",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/gradio_api/docs",
        "/monitoring",
    ],
)
def test_what_gradio_would_hand_out_is_not_there(server: Server, path: str) -> None:
    assert httpx.get(server.url + path).status_code in (403, 404)


def test_with_a_token_nothing_is_answered_without_it(open_server: Server) -> None:
    for path in ("/", "/config", "/media/runs/x.png", "/gradio_api/info"):
        assert httpx.get(open_server.url + path).status_code == 401
    assert httpx.get(f"{open_server.url}/manifest.json").json() == {
        "name": "DoRA Studio"
    }  # browsers have no cookie there


def test_the_link_with_the_token_sets_a_cookie_and_leaves_the_address(open_server: Server) -> None:
    with httpx.Client(base_url=open_server.url) as client:
        first = client.get("/", params={"place": "train", "token": TOKEN})
        assert first.status_code == 303
        assert first.headers["location"] == "/?place=train"
        assert re.search(r"httponly", first.headers["set-cookie"], re.IGNORECASE)
        assert client.get("/").status_code == 200
        assert COOKIE in client.cookies


def test_a_program_sends_the_token_in_a_header(open_server: Server) -> None:
    assert httpx.get(open_server.url, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_readmes_client_works_behind_the_token_and_sends_files(open_server: Server, tmp_path: Path) -> None:
    (picture := tmp_path / "cat.png").write_bytes(pictures.picture())
    (headers,) = re.findall(r"headers=(\{.*?\})", README.read_text(encoding="utf-8"))
    studio = Client(
        open_server.url,
        headers=json.loads(headers.replace("TOKEN", TOKEN)),
        verbose=False,
        download_files=str(tmp_path),
    )
    made = studio.predict("cats", [handle_file(picture)], "a sks cat", api_name="/create_set")
    studio.close()
    assert made["pictures"] == 1


def test_a_wrong_token_costs_time(open_server: Server) -> None:
    began = time.monotonic()
    wrong = [
        httpx.get(open_server.url, params={"token": TOKEN[:-1]}),
        httpx.get(open_server.url, cookies={COOKIE: "no"}),
        httpx.get(open_server.url, headers={"authorization": "Bearer no"}),
    ]
    assert [answer.status_code for answer in wrong] == [401, 401, 401]
    assert time.monotonic() - began > 3 * WRONG_TOKEN_SECONDS


def test_a_cookie_that_is_no_text_is_no_token(open_server: Server) -> None:
    answer = httpx.get(open_server.url, headers=[(b"cookie", f"{COOKIE}=ü".encode())])
    assert answer.status_code == 401


def test_with_a_token_an_address_is_a_name_of_ours_and_a_foreign_name_is_not(open_server: Server) -> None:
    secret = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.get(open_server.url, headers=secret | {"host": "192.168.1.5:7860"}).status_code == 200
    assert httpx.get(open_server.url, headers=secret | {"host": "evil.example"}).status_code == 421


@pytest.mark.browser
def test_the_page_works_behind_the_token(open_server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{open_server.url}/?token={TOKEN}")
    assert "token" not in page.url
    page.get_by_role("tab", name="3 Train").click()
    page.wait_for_url("**place=train*")


def test_a_server_that_others_can_reach_always_has_a_token(tmp_path: Path) -> None:
    assert listening(None, 1, listen=False, names=(), token=None).secret is None
    for where in (listening(None, 1, listen=True, names=(), token=None), listening("0.0.0.0", 1, False, (), None)):
        assert where.is_open
        assert where.secret is not None
        assert len(where.secret) >= 32
    assert listening(None, 1, listen=True, names=(), token="mine").secret == "mine"
    proxied = listening(None, 1, listen=False, names=("studio.example",), token=None)
    assert proxied.access.knows_host("studio.example")
    assert not Access().knows_host("studio.example")
