"""Several image sets, chosen by clicks, end as the setting that the command line knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.draft_set import choose_set
from app.form import texts_of
from app.image_sets import ImageSets, NoSuchSetError, StoredSet
from app.more_sets import add_beside, beside, follow_prompt, repeat_beside
from app.preset_cards import preset_cards
from app.setup_form import choose_preset, edit, read_form
from app.studio import Studio
from trainer.failures import ExplainedError


def filled(sets: ImageSets, name: str, pictures: int, prompt: str = "") -> StoredSet:
    made = sets.create(name)
    for number in range(pictures):
        Image.new("RGB", (64, 72), (40 * number, 0, 90)).save(made.folder / f"{number}.png")
    made.set_prompt(prompt)
    return made


@pytest.fixture
def chosen(studio: Studio, sets: ImageSets) -> StoredSet:
    cats = filled(sets, "Cats", 3, "a sks cat")
    choose_set(studio, cats.id)
    edit(studio, {"model.base": "starter"})
    return cats


def listed(studio: Studio) -> list[tuple[str, int, int]]:
    return [(one["name"], one["pictures"], one["repeats"]) for one in beside(studio, read_form(studio))["listed"]]


def others(studio: Studio) -> list[str]:
    return [one["name"] for one in beside(studio, read_form(studio))["others"]]


def test_a_set_is_added_repeated_and_taken_out(studio: Studio, sets: ImageSets, chosen: StoredSet) -> None:
    dogs = filled(sets, "Dogs", 2, 'a "zwx" dog')
    assert (listed(studio), others(studio)) == ([], ["Dogs"])
    add_beside(studio, dogs.id)
    repeat_beside(studio, str(dogs.folder), 4)
    assert (listed(studio), others(studio)) == ([("Dogs", 2, 4)], [])
    (more,) = read_form(studio).config(studio).data.more
    assert (more.folder, more.instance_prompt, more.repeats) == (dogs.folder, 'a "zwx" dog', 4)
    repeat_beside(studio, str(dogs.folder), 0)
    assert (listed(studio), others(studio)) == ([], ["Dogs"])
    assert "data.more" not in read_form(studio).typed
    with pytest.raises(NoSuchSetError):
        add_beside(studio, "../runs")


def test_what_else_was_typed_of_a_set_stays(studio: Studio, sets: ImageSets, chosen: StoredSet) -> None:
    dogs = filled(sets, "Dogs", 2)
    typed = f'{{folder = "{dogs.folder}", weight = 0.5, mask = {{source = "alpha"}}}}\n{{folder = "/elsewhere"}}'
    edit(studio, {"data.more": typed})
    repeat_beside(studio, str(dogs.folder), 3)
    assert listed(studio) == [("Dogs", 2, 3), ("/elsewhere", 0, 1)]
    repeat_beside(studio, "/elsewhere", 0)
    (more,) = read_form(studio).config(studio).data.more
    assert (more.weight, more.repeats) == (0.5, 3)
    assert more.mask is not None
    assert more.mask.source == "alpha"


def test_what_cannot_be_read_is_told_and_stays_as_it_was_typed(
    studio: Studio, sets: ImageSets, chosen: StoredSet
) -> None:
    dogs = filled(sets, "Dogs", 2)
    for typed in ('{folder = "a"', "{folder = 3}", "{weight = 2}", "nothing", "["):
        edit(studio, {"data.more": typed})
        assert (listed(studio), others(studio)) == ([], [])
        with pytest.raises(ExplainedError, match=r"Correct data\.more first"):
            add_beside(studio, dogs.id)
        assert read_form(studio).typed["data.more"] == typed


def test_steps_by_a_rule_count_the_pictures_of_every_set_that_is_learned(
    studio: Studio, sets: ImageSets, chosen: StoredSet
) -> None:
    dogs, kept = filled(sets, "Dogs", 20), filled(sets, "Kept", 9)
    rule = 'title = "By count"\nsummary = "x"\nfamily = "sd1"\nsteps = {per_picture = 100, least = 200, most = 5000}'
    folder = studio.home.path / "presets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "by-count.toml").write_text(f'[preset]\n{rule}\n[model]\nbase = "starter"\n')
    add_beside(studio, dogs.id)
    choose_preset(studio, "by-count")
    for more in ("", f'\n{{folder = "{kept.folder}", role = "prior-prediction"}}'):
        edit(studio, {"data.more": f'{{folder = "{dogs.folder}"}}{more}'})
        form = read_form(studio)
        assert form.below["train.steps"] == "2300"
        assert form.config(studio).train.steps == 2300
        cards = preset_cards(studio, form.folder, form.pictures, more)
        assert "2,300 steps" in next(card["figures"] for card in cards if card["name"] == "by-count")


def test_a_prompt_changed_in_images_is_followed_where_nobody_wrote_another(
    studio: Studio, sets: ImageSets, chosen: StoredSet
) -> None:
    dogs, birds = filled(sets, "Dogs", 2, "a dog"), filled(sets, "Birds", 2, "a bird")
    for each in (dogs, birds):
        add_beside(studio, each.id)
    text = read_form(studio).typed["data.more"]
    edit(studio, {"data.more": text.replace("a bird", "my own words")})
    for each, before in ((dogs, "a dog"), (birds, "a bird")):
        follow_prompt(studio, each.folder, before, "a zwx animal")
    prompts = [one["prompt"] for one in beside(studio, read_form(studio))["listed"]]
    assert prompts == ["a zwx animal", "my own words"]


def test_nothing_is_beside_the_first_set_by_default(studio: Studio, tmp_path: Path) -> None:
    assert texts_of({})["data.more"] == ""
    assert beside(studio, read_form(studio)) == {"listed": [], "others": []}
