"""What the place Images asks of the server, as a program asks it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Generator, Iterator

import httpx
import pytest

from app.image_sets import MOST_PICTURES, ImageSets
from app.intake import MOST_BYTES
from tests.app import pictures
from tests.app.conftest import Server
from trainer.config_io import config_from
from trainer.home import Home
from trainer.store import Store


@pytest.fixture
def client(server: Server) -> Generator[httpx.Client, None, None]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def made(client: httpx.Client) -> Generator[str, None, None]:
    """A set of its own, gone afterwards."""
    made: str = client.post("/sets", json={"name": "Routes"}).json()["id"]
    yield made
    client.post(f"/sets/{made}/delete")


def give(client: httpx.Client, made: str, name: str, data: bytes | Iterator[bytes]) -> httpx.Response:
    return client.post(f"/sets/{made}/files", params={"name": name}, content=data)


def pictures_of(server: Server, made: str) -> list[str]:
    return [path.name for path in ImageSets(server.home / "sets").find(made).pictures()]


def test_51_mb_are_refused_and_the_list_is_unchanged(client: httpx.Client, server: Server, made: str) -> None:
    give(client, made, "a.png", pictures.picture())
    before = pictures_of(server, made)
    answer = give(client, made, "b.png", bytes(51 * 2**20))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("larger than 50 MB.")
    assert pictures_of(server, made) == before
    assert list((server.home / "cache" / "incoming").iterdir()) == []


def test_a_zip_may_be_larger_than_a_picture(client: httpx.Client, server: Server, made: str) -> None:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:  # stored, not packed
        archive.writestr("a.png", pictures.picture())
        archive.writestr("film.mp4", bytes(51 * 2**20))
    found = give(client, made, "Photos.ZIP", kept.getvalue()).json()
    assert [member["name"] for member in found["members"]] == ["a.png"]
    client.post(f"/sets/{made}/zip/{found['zip']}/{found['members'][0]['index']}")
    client.post(f"/sets/zip/{found['zip']}/forget")
    assert len(pictures_of(server, made)) == 1


def test_50_mb_without_a_length_are_read_and_looked_at(client: httpx.Client, made: str) -> None:
    chunks = (bytes(2**20) for _ in range(MOST_BYTES // 2**20))
    answer = give(client, made, "b.png", chunks)
    assert (answer.status_code, answer.json()["error"]) == (422, "not a picture, whatever its name says.")


def test_a_set_is_worked_on_from_end_to_end(client: httpx.Client, server: Server, made: str) -> None:
    assert give(client, made, "a.png", pictures.picture()).json() == {"text": "", "is_new": True}
    assert give(client, made, "a.txt", b"a cat").json() == {"text": "", "is_new": False}
    [name] = pictures_of(server, made)
    edit = {"find": "cat", "replace": "dog"}
    looked = client.post(f"/sets/{made}/edit", json=edit | {"is_preview": True}).json()
    assert (looked["of"], looked["example"]) == (1, ["a cat", "a dog"])
    done = client.post(f"/sets/{made}/edit", json=edit).json()
    assert done["after"] == {name: "a dog"}
    client.post(f"/sets/{made}/captions", json={"captions": done["before"], "expected": done["after"]})
    assert client.post(f"/sets/{made}/captions", json={"captions": {}}).json() == {}
    saved = client.post(f"/sets/{made}/captions", json={"captions": {name: "new"}, "expected": {name: "other"}})
    assert saved.json() == {name: "a cat"}  # somebody else's words are left alone


def test_a_zip_is_taken_member_by_member_and_forgotten(client: httpx.Client, server: Server, made: str) -> None:
    data = pictures.zipped({"a.png": pictures.picture(), "b.mp4": b"", "c.png": b""})
    opened = give(client, made, "some.zip", data).json()
    assert opened["left_out"] == [["b.mp4", "neither a picture nor a caption"]]
    assert [member["name"] for member in opened["members"]] == ["a.png", "c.png"]
    answers = [client.post(f"/sets/{made}/zip/{opened['zip']}/{each['index']}") for each in opened["members"]]
    assert [answer.status_code for answer in answers] == [200, 422]
    assert answers[1].json() == {"error": "empty file."}
    assert client.post(f"/sets/{made}/zip/{opened['zip']}/1").status_code == 422  # no member to be taken
    assert client.post(f"/sets/zip/{opened['zip']}/forget").status_code == 200
    assert client.post(f"/sets/{made}/zip/{opened['zip']}/0").status_code == 404


def test_deleting_a_set_says_which_runs_need_it(client: httpx.Client, server: Server, made: str) -> None:
    store = Store(Home(server.home))
    folder = server.home / "sets" / made
    run = store.create(config_from({"data": {"folder": str(folder)}, "model": {"base": "starter"}}))
    assert client.get(f"/sets/{made}/runs").json() == [run.id]
    store.delete(run)
    assert client.get(f"/sets/{made}/runs").json() == []


def test_a_set_beside_the_first_is_called_as_its_prompt_says_by_then(client: httpx.Client, made: str) -> None:
    client.post("/sets/icons3d/choose")
    assert client.post("/setup/beside/add", json={"name": "no-such"}).status_code == 404
    client.post("/setup/beside/add", json={"name": made})
    client.post(f"/sets/{made}/prompt", json={"prompt": "a sks dog"})
    (listed,) = client.post("/setup/edit", json={"values": {}}).json()["beside"]["listed"]
    assert (listed["folder"].endswith(made), listed["prompt"]) == (True, "a sks dog")
    client.post("/setup/beside/repeat", json={"folder": listed["folder"], "repeats": 0})


def test_a_full_set_takes_no_more(client: httpx.Client, server: Server, made: str) -> None:
    for number in range(MOST_PICTURES):
        (server.home / "sets" / made / f"{number}.png").write_bytes(b"")
    answer = give(client, made, "a.png", pictures.picture())
    assert (answer.status_code, answer.json()["error"][:35]) == (409, "A set holds at most 500 pictures. M")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sets/no-such/choose", {}),
        ("/sets/%2e%2e/delete", {}),
        ("/sets/.trash/delete", {}),
        ("/sets/no-such/captions", {"captions": {"a.png": "x"}}),
        ("/sets/trash/%2e%2e/restore", {}),
        ("/sets/zip/..%2f..%2fsets/forget", {}),
    ],
)
def test_what_is_not_there_is_told(client: httpx.Client, path: str, body: dict[str, object]) -> None:
    assert client.post(path, json=body).status_code == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"captions": 3}', b'{"captions": {"a": {"b": 1}}}'])
def test_bodies_of_another_shape_are_refused(client: httpx.Client, made: str, body: bytes) -> None:
    assert client.post(f"/sets/{made}/captions", content=body).status_code == 422


def test_a_page_of_another_site_changes_nothing(client: httpx.Client, server: Server, made: str) -> None:
    answer = client.post(
        f"/sets/{made}/files?name=a.png", content=pictures.picture(), headers={"origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    assert pictures_of(server, made) == []
