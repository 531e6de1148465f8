"""Image sets on disk: made, named, changed, thrown away and brought back; nothing is lost."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import set_view
from app.draft_set import choose_set, chosen_set
from app.image_sets import MOST_PICTURES, ImageSets, NoSuchSetError, SetFullError, StoredSet
from app.intake import Intake, Taken
from app.live import Shown
from app.set_uses import SetInUseError, refuse_while_used, runs_with
from app.studio import Studio
from tests.app import pictures
from tests.app.pictures import give, names
from trainer.config_io import config_from
from trainer.data.captions import read_captions
from trainer.data.scan import scan

SHOWN = Shown("images", "")


def test_a_set_is_made_renamed_duplicated_deleted_and_brought_back(sets: ImageSets, intake: Intake) -> None:
    cats = sets.create("Cats")
    give(intake, cats, pictures.picture(), "a.png")
    sets.rename(cats.id, "Two cats")
    copy = sets.duplicate(cats.id)
    assert [stored.file.name for stored in sets.list()] == ["Two cats", "Two cats 2"]
    assert names(copy) == ["a.png"]
    thrown = sets.delete(cats.id)
    assert [stored.id for stored in sets.list()] == [copy.id]
    assert sets.restore(thrown).id == cats.id
    assert names(cats) == ["a.png"]


@pytest.mark.parametrize("name", ["../../x", "CON", "", "  ", "n" * 500, "\N{CAT FACE}", "a\0b", "..", "a/b\\c", "x."])
def test_a_set_may_be_called_anything(sets: ImageSets, name: str) -> None:
    made = sets.create(name)
    assert made.folder.parent == sets.root
    assert sets.find(made.id).file.name
    assert len(made.file.name) <= 80


def test_names_of_sets_differ(sets: ImageSets) -> None:
    made = [sets.create("Cats").file.name for _ in range(3)]
    assert made == ["Cats", "Cats 2", "Cats 3"]
    sets.rename(sets.list()[0].id, "Cats")  # its own name is no other set's
    assert [stored.file.name for stored in sets.list()] == made


@pytest.mark.parametrize("set_id", ["..", ".", "", ".trash", "../home", "no-such", "/etc", "a\0b"])
def test_an_address_of_no_set_is_refused(sets: ImageSets, stored: StoredSet, set_id: str) -> None:
    with pytest.raises(NoSuchSetError):
        sets.find(set_id)
    with pytest.raises(NoSuchSetError):
        sets.restore(set_id)


def test_samples_are_there_once_and_stay_away_when_deleted(sets: ImageSets) -> None:
    sets.offer_samples()
    assert {stored.id for stored in sets.list()} == {"icons3d", "subject"}
    assert all(stored.pictures() for stored in sets.list())
    sets.delete("icons3d")
    sets.offer_samples()
    assert {stored.id for stored in sets.list()} == {"subject"}


def test_the_folder_is_what_a_run_reads(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.turned(), "a.jpg")
    give(intake, stored, b"a cat", "a.txt")
    give(intake, stored, pictures.picture(seed=2), "b.png")
    found = scan(stored.folder)
    captions = read_captions((picture.path for picture in found.pictures), "a pet")
    assert (len(found.pictures), found.left_out, captions.unused) == (2, (), ())
    assert [caption.text for caption in captions.by_picture.values()] == ["a cat", "a pet"]


def test_pictures_put_there_by_hand_belong_to_the_set(stored: StoredSet, intake: Intake, studio: Studio) -> None:
    give(intake, stored, pictures.picture(), "z.png")
    (stored.folder / "by hand.png").write_bytes(pictures.picture(seed=2))
    (stored.folder / "half.png").write_bytes(pictures.picture(seed=3)[:40])
    assert names(stored) == ["z.png", "by hand.png", "half.png"]
    cards = set_view.cards(studio, SHOWN)["pictures"]
    assert cards[2]["warnings"][0] == "cannot be read: left out of training"
    stored.remove("by hand.png")
    assert names(stored) == ["z.png", "half.png"]


def test_a_damaged_set_file_loses_no_picture(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.picture(), "z.png")
    (stored.folder / "set.json").write_text("{")
    assert stored.file.name == stored.id
    assert len(stored.pictures()) == 1


def test_the_chosen_set_is_the_first_where_it_was_deleted(studio: Studio, sets: ImageSets) -> None:
    assert chosen_set(studio) is None
    first, second = sets.create("a"), sets.create("b")
    choose_set(studio, second.id)
    assert chosen_set(studio) == second
    sets.delete(second.id)
    assert chosen_set(studio) == first


@pytest.mark.parametrize("is_first", [True, False])
def test_runs_that_use_a_set_are_told_and_a_waiting_one_keeps_it(
    studio: Studio, sets: ImageSets, stored: StoredSet, is_first: bool
) -> None:
    assert runs_with(studio, stored.folder) == []
    first, second = (stored, sets.create("b")) if is_first else (sets.create("b"), stored)
    data = {"folder": str(first.folder), "more": [{"folder": str(second.folder)}]}
    run = studio.store.create(config_from({"data": data, "model": {"base": "starter"}}))
    assert [entry.run.id for entry in runs_with(studio, stored.folder)] == [run.id]
    refuse_while_used(studio, stored.folder)
    studio.store.requeue(run)
    with pytest.raises(SetInUseError, match=run.id):
        refuse_while_used(studio, stored.folder)


def test_a_set_holds_no_more_than_it_can_show(stored: StoredSet, intake: Intake) -> None:
    for number in range(MOST_PICTURES):
        (stored.folder / f"{number}.png").write_bytes(b"")
    with pytest.raises(SetFullError, match="at most 500"):
        give(intake, stored, pictures.picture(), "a.png")


def test_a_full_disk_changes_nothing(stored: StoredSet, intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    before = {path.name: path.read_bytes() for path in stored.folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for act in (
        lambda: give(intake, stored, pictures.picture(seed=2), "b.png"),
        lambda: give(intake, stored, b"a cat", "a.txt"),
        lambda: stored.set_prompt("a cat"),
    ):
        with pytest.raises(OSError, match="No space left"):
            act()
    assert {path.name: path.read_bytes() for path in stored.folder.iterdir()} == before


def test_removing_is_undone_caption_and_all(stored: StoredSet, intake: Intake) -> None:
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        give(intake, stored, pictures.picture(seed=seed), name)
    give(intake, stored, b"the second", "b.txt")
    second = stored.pictures()[1].name
    stored.remove(second)
    assert names(stored) == ["a.png", "c.png"]
    assert not list(stored.folder.glob("*.txt"))
    give(intake, stored, pictures.picture(seed=9), "d.png")
    stored.restore(second)
    assert names(stored) == ["a.png", "b.png", "c.png", "d.png"]
    assert stored.own_caption(second) == "the second"


@pytest.mark.parametrize("name", ["set.json", "../set.json", "", ".", "..", "no-such.png", "/etc/passwd"])
def test_only_pictures_of_the_set_are_touched(stored: StoredSet, intake: Intake, name: str) -> None:
    for act in (stored.remove, stored.restore, stored.own_caption):
        with pytest.raises(NoSuchSetError):
            act(name)
    with pytest.raises(NoSuchSetError):
        stored.set_caption(name, "x")
    assert (stored.folder / "set.json").is_file()


def test_many_at_once_lose_nothing(stored: StoredSet, intake: Intake) -> None:
    def give_one(seed: int) -> Taken:
        return give(intake, stored, pictures.picture(seed=seed), f"{seed}.png")

    with ThreadPoolExecutor(4) as pool:
        assert all(taken.is_new for taken in pool.map(give_one, range(12)))
    assert sorted(names(stored)) == sorted(f"{seed}.png" for seed in range(12))
