"""The only ways that a file of the home folder reaches a browser."""

from __future__ import annotations

import io
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.media import FOREVER, download_url, media_url
from app.studio import Studio
from tests.app import pictures
from tests.app.conftest import Server
from trainer.home import Home


@pytest.fixture(scope="module")
def folder(server: Server) -> Path:
    """A set with a picture, and around it what nobody should get."""
    folder = server.home / "sets" / "media-test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(pictures.picture(400, 300))
    (folder / "turned.jpg").write_bytes(pictures.turned(800, 400))
    (folder / "odd #?% name.png").write_bytes(pictures.picture())
    (folder / "half.png").write_bytes(pictures.picture()[:80])
    (folder / "page.html").write_text("<script>alert(1)</script>")
    (folder / "drawing.svg").write_text("<svg onload='alert(1)'/>")
    (folder / "text.txt").write_text("a caption")
    (folder / "folder.png").mkdir(exist_ok=True)
    (server.home / "secret.png").write_bytes(pictures.picture())
    (folder / "link.png").unlink(missing_ok=True)
    (folder / "link.png").symlink_to(server.home / "secret.png")
    return folder


@pytest.fixture
def studio(server: Server) -> Studio:
    return Studio(Home(server.home))


def test_a_picture_is_shown_and_kept_by_the_browser_while_it_is_the_same(
    server: Server, studio: Studio, folder: Path
) -> None:
    for name in ("a.png", "odd #?% name.png"):
        answer = httpx.get(server.url + media_url(studio, folder / name))
        assert answer.content == (folder / name).read_bytes()
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == FOREVER
    assert "no-cache" in httpx.get(f"{server.url}/media/sets/media-test/a.png").headers["cache-control"]


def test_the_address_changes_with_the_file(studio: Studio, folder: Path) -> None:
    before = media_url(studio, folder / "a.png")
    (folder / "a.png").write_bytes(pictures.picture(400, 300, seed=2))
    assert media_url(studio, folder / "a.png") != before


@pytest.mark.parametrize("width", [160, 320, 640])
def test_thumbnails_are_small_and_upright(server: Server, studio: Studio, folder: Path, width: int) -> None:
    answer = httpx.get(server.url + media_url(studio, folder / "turned.jpg", width))
    image = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/webp"
    assert image.size == (width // 2, width)


PLACES = "/media", "/download"
PATHS = (
    "sets/../secret.png",
    "sets/%2e%2e/secret.png",
    "sets/media-test/../../secret.png",
    "sets/media-test/%2e%2e/%2e%2e/secret.png",
    "sets/media-test/..%2f..%2fsecret.png",
    "sets/media-test/..%5c..%5csecret.png",
    "sets//etc/passwd",
    "sets/%2fetc%2fpasswd",
    "sets/media-test/link.png",
    "sets/media-test/folder.png",
    "sets/media-test/no-such.png",
    "sets/media-test/a.png%00.png",
    "sets/media-test/" + "x" * 5000 + ".png",
    "sets/media-test/set.lock",
    "cache/a.png",
    "home/secret.png",
    "sets",
    "",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", PATHS)
def test_nothing_else_is_given_out(server: Server, folder: Path, place: str, path: str) -> None:
    status, content = raw(server, f"{place}/{path}")
    assert status == 404
    assert (server.home / "secret.png").read_bytes() not in content


def test_what_is_asked_for_raw_arrives_raw(server: Server, folder: Path) -> None:
    status, content = raw(server, "/media/sets/media-test/../media-test/a.png")
    assert (status, content) == (200, (folder / "a.png").read_bytes())


def raw(server: Server, path: str) -> tuple[int, bytes]:
    """httpx would tidy the dots away before it asks."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "text.txt"])
def test_what_a_browser_could_run_is_never_shown(server: Server, folder: Path, name: str) -> None:
    assert httpx.get(f"{server.url}/media/sets/media-test/{name}").status_code == 404


def test_downloads_are_saved_and_not_shown(server: Server, studio: Studio, folder: Path) -> None:
    answer = httpx.get(server.url + download_url(studio, folder / "page.html"))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert httpx.get(f"{server.url}/download/sets/media-test/drawing.svg").status_code == 404


@pytest.mark.parametrize("width", ["0", "1", "321", "100000", "-160"])
def test_thumbnails_of_other_widths_are_not_made(server: Server, folder: Path, width: str) -> None:
    assert httpx.get(f"{server.url}/media/sets/media-test/a.png?w={width}").status_code == 404


def test_a_damaged_picture_has_no_thumbnail(server: Server, folder: Path) -> None:
    assert httpx.get(f"{server.url}/media/sets/media-test/half.png?w=160").status_code == 404
