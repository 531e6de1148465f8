"""The endpoints for programs, called as a program calls them."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.app.conftest import Server

NAMES = ["/create_set", "/start", "/list_runs", "/status", "/stop", "/export", "/list_files"]
QUICK = [
    "train.steps=2",
    "train.batch_size=1",
    "adapter.rank=2",
    "sample.every_steps=0",
    "sample.steps=1",
    "save.every_steps=0",
]


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[Client, None, None]:
    connected = Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield connected
    connected.close()


@pytest.fixture
def pictures(tmp_path: Path) -> list[dict[str, Any]]:
    """Three files: two pictures, one of them with a caption, and one that is none."""
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (64, 80), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "1.txt").write_text("a blue square")
    (tmp_path / "2.jpg").write_text("no picture")
    return [handle_file(path) for path in sorted(tmp_path.iterdir())]


def test_these_endpoints_and_no_other_are_for_programs(client: Client) -> None:
    info = client.view_api(return_format="dict", print_info=False)
    assert sorted(info["named_endpoints"]) == sorted(NAMES)  # type: ignore[index]
    assert info["unnamed_endpoints"] == {}  # type: ignore[index]


def test_from_pictures_to_a_file(server: Server, client: Client, pictures: list[dict[str, Any]]) -> None:
    made = client.predict("squares", pictures, "a sks square", api_name="/create_set")
    assert made["pictures"] == 2
    assert list(made["left_out"]) == ["2.jpg"]
    folder = server.home / "sets" / made["set"]
    assert [path.read_text() for path in folder.glob("*.txt")] == ["a blue square"]

    runs = client.predict(made["set"], "starter-lora", QUICK, "key-1", api_name="/start")
    assert client.predict(made["set"], "starter-lora", QUICK, "key-1", api_name="/start") == runs
    state = wait_for_end(client, runs[0])
    assert (state["state"], state["step"]) == ("finished", 2), state
    assert runs[0] in [run["id"] for run in client.predict(api_name="/list_runs")]

    file = client.predict(runs[0], api_name="/list_files")[0]
    data = httpx.get(server.url + file["download"]).content
    assert len(data) == file["bytes"]
    assert data == (server.home / "runs" / runs[0] / "exports" / file["name"]).read_bytes()
    assert "not running" in client.predict(runs[0], api_name="/stop")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("/status", ["no such run"], "no such run"),
        ("/stop", ["../../etc"], "etc"),
        ("/start", ["no-set", "starter-lora", []], "no such image set"),
        ("/start", ["icons3d", "starter-lara", []], "did you mean starter-lora"),
        ("/start", ["icons3d", "starter-lora", ["train.stepps=3"]], "did you mean train.steps"),
        ("/start", ["icons3d", "starter-lora", ["adapter.rank=0"]], "adapter.rank is 0"),
        ("/export", ["last", "forge"], "comfyui"),
        ("/create_set", ["stolen", [{"path": "/etc/passwd", "orig_name": "a.png"}]], "not sent"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(
    server: Server, client: Client, name: str, arguments: list[Any], words: str
) -> None:
    before = sorted(path.name for path in (server.home / "runs").glob("*"))
    with pytest.raises(AppError, match=re.escape(words)):
        client.predict(*arguments, api_name=name)
    assert sorted(path.name for path in (server.home / "runs").glob("*")) == before


def wait_for_end(client: Client, run: str) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while (state := client.predict(run, api_name="/status"))["state"] in (
        "queued",
        "preparing",
        "training",
        "sampling",
    ):
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    return state
