"""The endpoints for programs, called as a program calls them."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from tests.app.conftest import Server
from tests.app.twin_home import TwinHome

README = Path(__file__).parent.parent.parent / "app" / "README.md"
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
def squares(tmp_path: Path) -> Path:
    """Four files: two pictures, a caption of one of them, and one that is no picture."""
    folder = tmp_path / "squares"
    folder.mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (64, 80), colour).save(folder / f"{number}.png")
    (folder / "1.txt").write_text("a blue square")
    (folder / "2.jpg").write_text("no picture")
    return folder


def test_these_endpoints_and_no_other_are_for_programs(client: Client) -> None:
    info = client.view_api(return_format="dict", print_info=False)
    assert sorted(info["named_endpoints"]) == sorted(NAMES)  # type: ignore[index]
    assert info["unnamed_endpoints"] == {}  # type: ignore[index]


def test_the_example_of_the_readme_leads_from_pictures_to_a_file(
    server: Server, client: Client, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(squares.parent)
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    for shown, here in {"http://127.0.0.1:7860": server.url, '["train.steps=50"]': str(QUICK), "(5)": "(0.5)"}.items():
        assert shown in example
        example = example.replace(shown, here)
    done: dict[str, Any] = {}
    exec(example, done)  # as it stands there, but for these
    done["studio"].close()

    made, runs, (file,) = done["made"], done["runs"], done["files"]
    assert made["pictures"] == 2
    assert list(made["left_out"]) == ["2.jpg"]
    folder = server.home / "sets" / made["set"]
    assert [path.read_text() for path in folder.glob("*.txt")] == ["a blue square"]
    assert client.predict(made["set"], "starter-lora", QUICK, "my-key", api_name="/start") == runs
    assert (done["state"]["state"], done["state"]["step"]) == ("finished", 2), done["state"]
    assert runs[0] in [run["id"] for run in client.predict(api_name="/list_runs")]
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


def test_a_program_that_nothing_is_written_for_is_told_with_those_there_are(host: Server, twins: TwinHome) -> None:
    studio = Client(host.url, verbose=False)
    with pytest.raises(AppError, match=r"forge.*comfyui"):
        studio.predict(twins.dora.id, "forge", api_name="/export")
    studio.close()
