"""The trash: what is in it comes back or ends, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from app import trash
from app.adapter_files import TRASH
from app.image_sets import ImageSets
from app.live import Shown
from app.studio import Studio
from tests.app.conftest import OpenPage, Server
from tests.app.made_runs import config, made
from tests.app.pictures import picture
from trainer.events import Stopped
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.run_dir import RunDir

NOTHING = Shown("train", "")


def throw_away(studio: Studio) -> tuple[RunDir, ImageSets]:
    """A run and a set as a whole; a picture of a set that stays, and a file of a run that stays."""
    gone, stays = (made(studio.home, config(name), [Stopped(step=9)], steps=9) for name in ("fox", "owl"))
    studio.store.delete(gone)
    (stays.exports_dir / TRASH).mkdir(parents=True)
    (stays.exports_dir / TRASH / "owl.safetensors").write_bytes(b"x" * 3000)
    sets = ImageSets(studio.sets)
    cats, dogs = sets.create("Cats"), sets.create("Dogs")
    (dogs.folder / "1.png").write_bytes(picture())
    (dogs.folder / "2.png").write_bytes(picture())
    dogs.remove("1.png")
    sets.delete(cats.id)
    return stays, sets


def test_everything_that_was_thrown_away_is_listed_with_its_size(studio: Studio) -> None:
    throw_away(studio)
    listed = [(item["kind"], item["name"]) for item in trash.view(studio)["items"]]
    assert listed == [("run", "fox"), ("set", "Cats"), ("part", "pictures of Dogs"), ("part", "files of owl")]
    assert trash.view(studio)["items"][-1]["size"] == "3 KiB"
    assert trash.count(studio, NOTHING) == {"count": 2}


def test_emptied_it_takes_nothing_else_along(studio: Studio) -> None:
    stays, sets = throw_away(studio)
    assert trash.empty(studio).endswith("KiB")
    assert trash.view(studio)["items"] == []
    assert trash.count(studio, NOTHING) == {"count": 0}
    assert [entry.run.id for entry in studio.store.list_runs()] == [stays.id]
    (dogs,) = sets.list()
    assert [path.name for path in dogs.pictures()] == ["2.png"]
    dogs.remove("2.png")  # there is a trash again
    dogs.restore("2.png")


def test_pictures_of_a_set_that_is_gone_end_with_it(studio: Studio) -> None:
    _, sets = throw_away(studio)
    (dogs,) = sets.list()
    sets.delete(dogs.id)
    trash.empty(studio)
    assert not [path for path in studio.sets.rglob("*") if path.is_file() and path.suffix == ".png"]


@pytest.mark.parametrize("home_is_there", [True, False])
def test_of_a_new_home_nothing_is_in_the_trash(studio: Studio, home_is_there: bool) -> None:
    if home_is_there:
        studio.home.path.mkdir()
    assert trash.view(studio) == {"items": [], "size": "0 KiB"}
    assert trash.empty(studio) == "0 KiB"


def test_what_cannot_be_deleted_is_told(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    throw_away(studio)

    def held(path: Path) -> None:  # as Windows holds what a program has open
        raise PermissionError(13, "is used by another process", str(path))

    monkeypatch.setattr("shutil.rmtree", held)
    with pytest.raises(ExplainedError, match=r"fox cannot be deleted\. A file or folder may not be used: .*fox"):
        trash.empty(studio)


@pytest.mark.browser
def test_a_run_comes_back_from_the_trash_or_ends_there(idle: Server, home: Home, open_page: OpenPage) -> None:
    studio = Studio(home)
    runs = [made(home, config(name), [Stopped(step=9)], steps=9) for name in ("heron", "egret")]
    for run in runs:
        studio.store.delete(run)
    page = open_page(f"{idle.url}/?place=train")
    page.locator(".sidebar .toggle-button").click()
    page.locator("#trash summary").click()
    page.get_by_role("button", name="Restore heron").click()
    expect(page.locator("#trash .told")).to_have_text("heron is back.")
    expect(page.locator("#runs li", has_text="heron")).to_be_visible()
    expect(page.get_by_role("button", name="Restore heron")).to_have_count(0)
    page.get_by_role("button", name="Empty the trash").click()
    expect(page.get_by_role("button", name="Keep")).to_be_focused()  # and not the one that deletes
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator("#trash .told")).to_contain_text("freed.")
    expect(page.locator("#trash li")).to_have_count(0)
    assert runs[0].exists()
    assert not (studio.store.trash / runs[1].id).exists()
