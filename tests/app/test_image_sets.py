"""Image sets on disk: what is taken in, under which names, and that nothing is lost."""

from __future__ import annotations

import errno
import io
import json
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPTokenizer

from app import picture_import, set_view
from app.caption_edits import Edit, changed, own_captions
from app.draft import DraftFile
from app.draft_set import choose_set, chosen_set
from app.image_sets import MOST_PICTURES, ImageSets, NoSuchSetError, SetFullError, StoredSet
from app.intake import Intake, NoSuchZipError, Taken
from app.live import Shown
from app.picture_import import BadPictureError
from app.set_uses import SetInUseError, refuse_while_used, runs_with
from app.studio import Studio
from app.tokens import count_tokens
from app.zip_import import BadZipError
from tests.app import pictures
from trainer.base_files import STARTER
from trainer.config_io import config_from
from trainer.data.captions import read_captions
from trainer.data.scan import scan
from trainer.failures import ExplainedError
from trainer.home import Home

SHOWN = Shown("images", "")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(Home(tmp_path / "home"))


@pytest.fixture
def sets(studio: Studio) -> ImageSets:
    return ImageSets(studio.sets)


@pytest.fixture
def stored(sets: ImageSets) -> StoredSet:
    return sets.create("Cats")


@pytest.fixture
def intake(studio: Studio) -> Intake:
    return Intake(studio.incoming)


def give(intake: Intake, stored: StoredSet, data: bytes, name: str) -> Taken:
    with intake.waiting() as folder:
        path = folder / "upload"
        path.write_bytes(data)
        return intake.take(stored, path, name)


def names(stored: StoredSet) -> list[str]:
    """As a person called them."""
    return [stored.file.note(path.name).name for path in stored.pictures()]


def only(stored: StoredSet) -> Image.Image:
    [path] = stored.pictures()
    return Image.open(io.BytesIO(path.read_bytes()))


# Sets


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


def test_runs_that_use_a_set_are_told_and_a_waiting_one_keeps_it(studio: Studio, stored: StoredSet) -> None:
    assert runs_with(studio, stored.folder) == []
    run = studio.store.create(config_from({"data": {"folder": str(stored.folder)}, "model": {"base": "starter"}}))
    assert [entry.run.id for entry in runs_with(studio, stored.folder)] == [run.id]
    refuse_while_used(studio, stored.folder)
    studio.store.requeue(run)
    with pytest.raises(SetInUseError, match=run.id):
        refuse_while_used(studio, stored.folder)


# Pictures

REFUSED = {
    "empty": (b"", "empty.jpg", "empty file"),
    "text": (b"not a picture at all", "text.png", "not a picture, whatever its name says"),
    "half a JPEG": (pictures.picture(kind="JPEG")[:700], "half.jpg", "damaged"),
    "20 000 a side": (pictures.claims(20_000), "huge.png", "more than 64 megapixels"),
    "10 000 a side": (pictures.claims(10_000), "large.png", "more than 64 megapixels"),
    "HEIC": (b"\0\0\0\x18ftypheic", "phone.HEIC", "HEIC cannot be read: save it as JPEG or PNG"),
    "SVG": (b"<svg onload='alert(1)'/>", "drawing.svg", "drawings and documents are not read"),
    "SVG under another name": (b"<svg onload='alert(1)'/>", "drawing.png", "not a picture"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "drawing.eps", "drawings and documents are not read"),
    "EPS under another name": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "drawing.jpg", "not a picture"),
    "PDF": (b"%PDF-1.7", "paper.pdf", "drawings and documents are not read"),
    "a text that unpacks": (pictures.text_bomb(), "bomb.png", "damaged"),
    "film": (b"\0\0\0\x18ftypmp42", "film.mp4", "not a picture"),
    "program": (b"MZ", "setup.exe", "not a picture"),
    "no ending": (pictures.picture(), "picture", "not a picture"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_with_the_reason(stored: StoredSet, intake: Intake, kind: str) -> None:
    data, name, reason = REFUSED[kind]
    with pytest.raises(BadPictureError, match=reason):
        give(intake, stored, data, name)
    assert names(stored) == []
    assert list(intake.folder.iterdir()) == []


TAKEN = {
    "CMYK": (pictures.picture(kind="JPEG", mode="CMYK"), "a.jpg", "converted from CMYK to RGB"),
    "turned": (pictures.turned(), "a.jpg", "was stored turned: put upright"),
    "animated": (pictures.animation(), "a.gif", "animated: the first frame was taken"),
    "transparent": (pictures.hidden_colours(), "a.png", "was transparent: laid on white"),
    "palette": (pictures.picture(mode="P"), "a.png", ""),
    "1-bit": (pictures.picture(mode="1"), "a.png", ""),
    "grey": (pictures.picture(mode="L"), "a.png", ""),
    "JPEG named .png": (pictures.picture(kind="JPEG"), "a.png", ""),
    "1x1": (pictures.picture(1, 1), "a.png", ""),
    "5000x8": (pictures.picture(5000, 8), "a.png", "scaled down from 5000x8"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_odd_pictures_become_plain_ones(stored: StoredSet, intake: Intake, kind: str) -> None:
    data, name, told = TAKEN[kind]
    assert give(intake, stored, data, name) == Taken(told, is_new=True)
    assert only(stored).mode == "RGB"


def test_a_turned_picture_is_upright_and_says_nothing_of_where_it_was_taken(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.turned(96, 64, place="48.8584 N 2.2945 E"), "a.jpg")
    image = only(stored)
    assert image.size == (64, 96)
    assert image.getpixel((32, 10))[0] > 200  # type: ignore[index] - the red half is on top
    assert not image.getexif()
    assert b"48.8584" not in stored.pictures()[0].read_bytes()


def test_sixteen_bit_grey_is_scaled_and_hidden_colours_stay_hidden(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.encoded(Image.new("I;16", (80, 70), 128 * 257)), "deep.png")
    assert only(stored).getpixel((3, 3)) == (128, 128, 128)
    stored.remove(stored.pictures()[0].name)
    give(intake, stored, pictures.hidden_colours(), "hidden.png")
    assert only(stored).getpixel((3, 3)) == (255, 255, 255)


def test_large_pictures_are_scaled_to_what_training_can_use(stored: StoredSet, intake: Intake) -> None:
    taken = give(intake, stored, pictures.encoded(Image.new("RGB", (3000, 1500), "teal"), "JPEG"), "photo.jpg")
    assert taken.text == "scaled down from 3000x1500"
    assert only(stored).size == (2048, 1024)


def test_photos_stay_jpeg_and_drawings_are_kept_to_the_pixel(
    stored: StoredSet, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = pictures.picture()
    give(intake, stored, drawing, "drawing.png")
    assert only(stored).tobytes() == Image.open(io.BytesIO(drawing)).tobytes()
    give(intake, stored, pictures.picture(kind="JPEG", seed=2), "photo.jpeg")
    monkeypatch.setattr(picture_import, "LARGEST_PNG", 1000)
    give(intake, stored, pictures.picture(seed=3), "large.png")
    assert [path.suffix for path in stored.pictures()] == [".png", ".jpg", ".jpg"]


def test_the_same_picture_is_taken_once_whatever_it_is_called(stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    lossless = pictures.encoded(Image.open(io.BytesIO(pictures.picture())), "BMP")
    assert give(intake, stored, lossless, "b.bmp") == Taken("the same picture as a.png: left out")
    stored.remove(stored.pictures()[0].name)
    assert give(intake, stored, lossless, "b.bmp").is_new


ODD_NAMES = ("../../x.png", "CON.png", "n" * 300 + ".png", "\N{CAT FACE} \u202egnp.png", "a.png", "A.PNG", "..png",
             "C:\\Windows\\x.png", "<img src=x onerror=alert(1)>.png", "${alert(1)}{{x}}.png", "-rf.png")  # fmt: skip


def test_names_are_for_showing_only(stored: StoredSet, intake: Intake) -> None:
    before = {path.name for path in stored.folder.parent.iterdir()}
    for seed, name in enumerate(ODD_NAMES):
        give(intake, stored, pictures.picture(seed=seed), name)
    assert all(path.name[:5] == f"{number:04d}-" for number, path in enumerate(stored.pictures(), 1))
    assert {path.name for path in stored.folder.parent.iterdir()} == before | {".locks"}
    assert names(stored)[4:6] == ["a.png", "A.PNG"]
    assert names(stored)[0] == names(stored)[7] == "x.png"
    assert max(map(len, names(stored))) == 200


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


# Captions

TEXT = "café, a red cat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
@pytest.mark.parametrize("ending", [".txt", ".caption"])
def test_a_caption_file_comes_along_in_any_encoding(
    stored: StoredSet, intake: Intake, encoding: str, ending: str
) -> None:
    give(intake, stored, pictures.picture(), "Cat.PNG")
    assert give(intake, stored, TEXT.encode(encoding), f"cat{ending}") == Taken()
    assert list(own_captions(stored).values()) == [TEXT]


def test_a_caption_of_no_picture_is_told(stored: StoredSet, intake: Intake) -> None:
    assert "caption of no picture" in give(intake, stored, b"a dog", "dog.txt").text


def test_pictures_of_the_same_name_get_their_own_captions(stored: StoredSet, intake: Intake) -> None:
    for seed, text in enumerate((b"first", b"second")):
        give(intake, stored, pictures.picture(seed=seed), "1.png")
        give(intake, stored, text, "1.txt")
    assert list(own_captions(stored).values()) == ["first", "second"]


CAPTIONS = {
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "${alert(1)} {{x}}": "${alert(1)} {{x}}",
    "a\0b\x07c": "abc",
    " \t\n ": "",
    "\u202eright to left\u202c": "\u202eright to left\u202c",
    "two\nlines": "two lines",
    "w" * 10_000: "w" * 4000,
}


@pytest.mark.parametrize("typed", CAPTIONS)
def test_captions_are_kept_as_they_were_typed_on_one_line(stored: StoredSet, intake: Intake, typed: str) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    [name] = [path.name for path in stored.pictures()]
    stored.set_caption(name, typed)
    assert stored.own_caption(name) == CAPTIONS[typed]
    assert (stored.folder / name).with_suffix(".txt").exists() == bool(CAPTIONS[typed])


EDITS = {
    "replace": (Edit(find="cat", replace="dog"), {"a": "a red dog"}),
    "literally": (Edit(find="a.", replace="x"), {}),
    "before": (Edit(before="ohwx,"), {"a": "ohwx, a red cat", "b": "ohwx, two birds, 3d style"}),
    "after, not twice": (Edit(after=", 3d style"), {"a": "a red cat, 3d style"}),
    "all": (Edit(find="red ", before="see", after="now"), {"a": "see a cat now", "b": "see two birds, 3d style now"}),
    "away": (Edit(find="a red cat"), {"a": ""}),
    "nothing": (Edit(), {}),
}


@pytest.mark.parametrize("kind", EDITS)
def test_edits_of_many_captions(kind: str) -> None:
    edit, expected = EDITS[kind]
    assert changed({"a": "a red cat", "b": "two birds, 3d style"}, edit) == expected


# What is shown


@pytest.mark.parametrize(
    ("preset", "typed", "bucket"),
    [
        ("", {}, "64x64"),
        ("sd15-subject-dora", {}, "512x512"),
        ("sd15-subject-dora", {"data.resolution_px": "768"}, "768x768"),
        ("sd15-subject-dora", {"data.resolution_px": "7", "optim.learning_rate": "x"}, "512x512"),
        ("no-such", {}, "64x64"),
    ],
)
def test_pictures_are_seen_as_the_draft_would_train_them(
    studio: Studio, stored: StoredSet, intake: Intake, preset: str, typed: dict[str, str], bucket: str
) -> None:
    give(intake, stored, pictures.picture(100, 100), "a.png")
    DraftFile(studio.home).change(lambda draft: draft.but(preset=preset, values=typed))
    [card] = set_view.cards(studio, SHOWN)["pictures"]
    assert "x".join(map(str, card["seen"]["bucket"])) == bucket
    enlarged = [f"smaller than its training size {bucket}: enlarged"] if bucket != "64x64" else []
    assert card["warnings"] == [*enlarged, "no caption"]


@pytest.mark.parametrize("text", ["", "a red cat", "Ohwx, CAFÉ 1234 & co. _x_", "\N{CAT FACE} " * 20])
def test_tokens_are_counted_as_training_counts_them(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(STARTER / "tokenizer"))
    assert count_tokens(text, "starter").count == len(tokenizer(text).input_ids)
    assert count_tokens(text, "nobody/nothing").count <= len(tokenizer(text).input_ids)
    assert not count_tokens(text, "nobody/nothing").is_exact


def test_cards_say_what_training_makes_of_each(studio: Studio, stored: StoredSet, intake: Intake) -> None:
    for name, data in {
        "small.png": pictures.picture(30, 40),
        "long.png": pictures.picture(400, 40, seed=2),
        "wide.png": pictures.picture(300, 100, seed=3),
        "good.png": pictures.picture(128, 128, seed=4),
    }.items():
        give(intake, stored, data, name)
    give(intake, stored, b"word " * 100, "good.txt")
    shown = set_view.cards(studio, SHOWN)
    warnings = {card["name"]: card["warnings"] for card in shown["pictures"]}
    assert warnings["small.png"][0] == "too small (30x40): left out of training"
    assert warnings["long.png"][0] == "extreme shape (400x40): left out of training"
    assert "cut off" in warnings["wide.png"][0]
    assert warnings["good.png"] == ["caption too long: its end is not read"]
    assert shown["count"] == "4 pictures, 3 without a caption, 4 with a warning"
    assert shown["notices"] == ["4 pictures are few: 10 to 50 are usual"]
    assert {card["name"]: card["seen"] for card in shown["pictures"]}["good.png"]["bucket"] == [64, 64]
    json.dumps(shown, allow_nan=False)


def test_cards_follow_every_change_on_disk(studio: Studio, stored: StoredSet, intake: Intake) -> None:
    give(intake, stored, pictures.picture(), "a.png")
    first = set_view.cards(studio, SHOWN)
    [picture] = stored.pictures()
    picture.with_suffix(".txt").write_text("by the command line")
    stored.set_prompt("a pet")
    second = set_view.cards(studio, SHOWN)
    assert (first["pictures"][0]["caption"], first["pictures"][0]["prompt"]) == ("", "")
    assert (second["pictures"][0]["caption"], second["pictures"][0]["prompt"]) == ("by the command line", "a pet")


# Zips


def take_zip(stored: StoredSet, path: Path, intake: Intake) -> list[tuple[str, str]]:
    """All of it, as the page does; what was told of which file."""
    intake.folder.mkdir(parents=True, exist_ok=True)
    kept, contents = intake.keep_zip(path)
    told = list(contents.left_out)
    for member in contents.members:
        try:
            intake.take_member(stored, kept, member.index)
        except ExplainedError as error:
            told.append((member.name, str(error)))
    intake.forget_zip(kept)
    return told


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "some.zip"


def test_a_zip_is_flattened_and_captions_find_their_pictures(
    sets: ImageSets, stored: StoredSet, intake: Intake, archive: Path
) -> None:
    archive.write_bytes(
        pictures.zipped(
            {
                "cats/one.txt": b"the first",
                "cats/one.png": pictures.picture(seed=1),
                "../../two.png": pictures.picture(seed=2),
                "/etc/three.png": pictures.picture(seed=3),
                "C:\\Windows\\four.png": pictures.picture(seed=4),
                "dup.png": pictures.picture(seed=5),
                "DUP.png": pictures.picture(seed=6),
                "more.zip": pictures.zipped({"x.png": pictures.picture()}),
                "film.mp4": b"film",
                "__MACOSX/cats/._one.png": b"junk",
                ".DS_Store": b"junk",
                "half.png": pictures.picture(seed=7)[:50],
            }
        )
    )
    told = dict(take_zip(stored, archive, intake))
    assert names(stored) == ["one.png", "two.png", "three.png", "four.png", "dup.png", "DUP.png"]
    assert list(own_captions(stored).values()) == ["the first"]
    assert told["more.zip"] == "an archive within the archive is not opened"
    assert told["film.mp4"] == "neither a picture nor a caption"
    assert told["half.png"].startswith("damaged")
    assert len(told) == 3
    assert not list(sets.root.parent.parent.rglob("two.png"))


def test_links_in_a_zip_are_left_out(stored: StoredSet, intake: Intake, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as out:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(link, "/etc/passwd")
    assert take_zip(stored, archive, intake) == [("link.png", "a link, not a file")]
    assert names(stored) == []


BAD_ZIPS = {
    "bomb": (pictures.zipped({"a.png": b"\0" * 3_000_000}), "it would unpack to 3 MB"),
    "many": (pictures.zipped({f"{number}.png": b"" for number in range(10_000)}), "10000 files"),
    "locked": (pictures.locked(pictures.zipped({"a.png": pictures.picture()})), "password"),
    "truncated": (pictures.zipped({"a.png": pictures.picture()})[:-30], "damaged, or not whole"),
    "empty": (b"", "damaged, or not whole"),
    "no zip": (b"Rar!", "damaged, or not whole"),
}


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_bad_zips_are_refused_before_anything_is_unpacked(
    stored: StoredSet, intake: Intake, archive: Path, kind: str
) -> None:
    data, reason = BAD_ZIPS[kind]
    archive.write_bytes(data)
    with pytest.raises(BadZipError, match=reason):
        take_zip(stored, archive, intake)
    assert names(stored) == []


def test_a_member_that_is_not_what_the_zip_says_is_told(stored: StoredSet, intake: Intake, archive: Path) -> None:
    data = bytearray(pictures.zipped({"a.png": pictures.picture(), "b.png": pictures.picture(seed=2)}))
    data[60:90] = bytes(30)
    archive.write_bytes(bytes(data))
    told = dict(take_zip(stored, archive, intake))
    assert "damaged in the zip" in told["a.png"]
    assert names(stored) == ["b.png"]


@pytest.mark.parametrize("kept", ["..", "zip-", "zip-nothing", "../zip-x", "", "zip-a/../.."])
def test_a_zip_is_found_by_its_own_name_only(intake: Intake, stored: StoredSet, kept: str) -> None:
    intake.folder.mkdir(parents=True)
    with pytest.raises(NoSuchZipError):
        intake.take_member(stored, kept, 0)
    with pytest.raises(NoSuchZipError):
        intake.forget_zip(kept)
