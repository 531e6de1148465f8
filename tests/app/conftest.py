"""A server of our own, a real browser, and pages that fail a test when anything goes wrong in them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, expect, sync_playwright

from app.image_sets import ImageSets, StoredSet
from app.intake import Intake
from app.studio import Studio
from tests.app.twin_home import TwinHome, make_twin_home
from trainer import locks
from trainer.home import Home
from trainer.queue import UNDONE, Queue

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 90  # importing Gradio alone takes seconds, many on a loaded machine
EXPECT_MS = 60_000  # a state that comes is waited for on a busy machine too
# What Gradio's own script writes when a page is left within a tick, and what tells that it is being left.
CUT_OFF = ("AbortError: signal is aborted without reason", "Unexpected error Connection errored out.")
LEAVING = "this page is being left"
TELL_OF_LEAVING = f"addEventListener('beforeunload', () => console.debug('{LEAVING}'))"
FLAGS = (  # the last three: no connection of the browser's own
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Server:
    """`dora-studio ui` in a process of its own."""

    home: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.home / "server.txt").read_text(errors="replace")

    def start(self) -> None:
        command = [sys.executable, "-m", "app.cli", "--no-open", "--port", str(self.port), *self.options]
        self.home.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "DORA_STUDIO_HOME": str(self.home),
            "DORA_STUDIO_LOCKS": str(self.home / "devices"),  # what else trains on this machine is not waited for
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        with open(self.home / "server.txt", "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
            except urllib.error.HTTPError:
                return  # it answers
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"the server did not start:\n{self.log}")

    def kill(self) -> None:
        """As kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def until(holds: Callable[[], object]) -> None:
    """Wait for what no locator shows, such as a file."""
    deadline = time.monotonic() + EXPECT_MS / 1000
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(home: Path, *options: str) -> Generator[Server, None, None]:
    server = Server(home, free_port(), options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    """One for all tests that do not mind what the others left on its disk."""
    with running(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    """Without a worker: nothing is ever trained here, and what is started stays in the queue."""
    home = Home(tmp_path_factory.mktemp("idle"))
    with locks.hold(home.worker_lock), running(home.path) as started:
        yield started


@pytest.fixture
def home(idle: Server) -> Home:
    """Of `idle`: with a draft that nobody has touched, and an empty queue."""
    (idle.home / "draft.toml").unlink(missing_ok=True)
    home = Home(idle.home)
    queue = Queue(home)
    for entry in queue.list_jobs(UNDONE):
        queue.cancel(entry.job)
    return home


@pytest.fixture(scope="session")
def browser(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[BrowserContext, None, None]:
    """One profile for all tests: that it keeps Gradio's scripts, compiled, halves the work of opening a page."""
    expect.set_options(timeout=EXPECT_MS)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=chromium_path, args=list(FLAGS), accept_downloads=True
        )
        context.set_default_timeout(EXPECT_MS)
        yield context
        context.close()


def forget(browser: BrowserContext, origins: set[str]) -> None:
    """Whatever pages keep in a profile, its cache of scripts aside."""
    browser.clear_cookies()
    devtools = browser.new_cdp_session(browser.pages[0])
    for origin in origins:
        devtools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    devtools.detach()


@dataclass
class Watch:
    """What went wrong in a page. `expected` are parts of messages that a test brings about on purpose."""

    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    leaving: set[Page] = field(default_factory=set)

    def attach(self, page: Page) -> None:
        page.add_init_script(TELL_OF_LEAVING)
        page.on("domcontentloaded", lambda _: self.leaving.discard(page))
        page.on("pageerror", lambda error: self._error(page, f"error: {error}"))
        page.on("console", lambda message: self._console(page, message))
        page.on("request", lambda request: self._foreign(request.url))
        page.on("dialog", self._dialog)

    def unexpected(self) -> list[str]:
        return [text for text in self.problems if not any(part in text for part in self.expected)]

    def _console(self, page: Page, message: ConsoleMessage) -> None:
        if message.text == LEAVING:
            self.leaving.add(page)
        elif message.type == "error":
            self._error(page, f"console: {message.text}")

    def _error(self, page: Page, text: str) -> None:
        if page not in self.leaving or not any(part in text for part in CUT_OFF):
            self.problems.append(text)

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _foreign(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost"):
            self.problems.append(f"request to {url}")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """Without a server."""
    return Studio(Home(tmp_path / "home"))


@pytest.fixture
def sets(studio: Studio) -> ImageSets:
    return ImageSets(studio.sets)


@pytest.fixture
def stored(sets: ImageSets) -> StoredSet:
    """An empty set."""
    return sets.create("Cats")


@pytest.fixture
def intake(studio: Studio) -> Intake:
    return Intake(studio.incoming)


@pytest.fixture
def cats(server: Server) -> Generator[StoredSet, None, None]:
    """An empty set on the server, chosen; gone afterwards."""
    name = httpx.post(f"{server.url}/sets", json={"name": "Cats"}).json()["id"]
    yield ImageSets(server.home / "sets").find(name)
    httpx.post(f"{server.url}/sets/{name}/delete")


@pytest.fixture(scope="session")
def twin_home(tmp_path_factory: pytest.TempPathFactory) -> Generator[TwinHome, None, None]:
    """Real runs, trained and compared on the starter; it stays as it is."""
    folder = tmp_path_factory.mktemp("twins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORA_STUDIO_LOCKS", str(folder / "devices"))
        yield make_twin_home(folder / "home")


@pytest.fixture(scope="session")
def twins(twin_home: TwinHome, tmp_path_factory: pytest.TempPathFactory) -> TwinHome:
    """A copy that belongs to `host`, where tests draw, export, rename and delete."""
    path = tmp_path_factory.mktemp("copy") / "home"
    shutil.copytree(twin_home.path, path)
    return twin_home.at(path)


@pytest.fixture(scope="session")
def host(twins: TwinHome) -> Generator[Server, None, None]:
    """Has finished twins and their comparison."""
    with running(twins.path) as started:
        yield started


OpenPage = Callable[..., Page]


@pytest.fixture
def watch() -> Generator[Watch, None, None]:
    """Fails the test at its end for errors on a page or its console, dialogs, and requests that leave the machine."""
    watching = Watch()
    yield watching
    assert watching.unexpected() == []


@pytest.fixture
def open_page(
    browser: BrowserContext, watch: Watch, request: pytest.FixtureRequest, tmp_path: Path
) -> Generator[OpenPage, None, None]:
    """`open_page(url, width=, dark=)`: a tab, watched, of a profile that knows nothing of earlier tests; a screenshot
    of it when the test fails."""
    pages: list[Page] = []
    origins: set[str] = set()
    failures = request.session.testsfailed

    def opened(url: str, width: int = 1440, height: int = 900, dark: bool = False) -> Page:
        page = browser.new_page()
        pages.append(page)
        origins.add("://".join(urlsplit(url)[:2]))
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        watch.attach(page)
        page.goto(url)
        page.wait_for_selector("#header[data-rev], #header [data-rev]", state="attached")
        return page

    yield opened
    for number, page in enumerate(pages):
        if request.session.testsfailed > failures:
            page.screenshot(path=tmp_path / f"failed-{number}.png", full_page=True)
        watch.leaving.add(page)  # which closing tells no page
        page.close()
    forget(browser, origins)
