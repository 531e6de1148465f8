"""The place Setup in a real browser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.app.conftest import OpenPage, Server, Watch, running
from trainer.config_io import config_from, load_config, parse_config, read_toml
from trainer.home import Home
from trainer.queue import UNDONE, Queue
from trainer.run_dir import RunDir

pytestmark = pytest.mark.browser
RANK = str(load_config("starter-dora", ["data.folder=."]).adapter.rank)
HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} {{x}}"


@pytest.fixture
def page(idle: Server, home: Home, open_page: OpenPage) -> Page:
    return at_setup(open_page, idle)


def at_setup(open_page: OpenPage, server: Server, **options: object) -> Page:
    page = open_page(f"{server.url}/?place=setup", **options)
    expect(start(page)).to_be_visible()
    expect(page.locator("#setup .cards .card").first).to_be_visible()  # it knows the settings
    return page


def start(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile("^Start "))


def field(page: Page, name: str) -> Locator:
    return page.locator("#setup").get_by_label(name, exact=True)


def fill(page: Page, name: str, text: str) -> None:
    field(page, name).fill(text)
    expect(page.locator("#setup .state")).to_have_text("saved")


def runs(home: Home) -> list[RunDir]:
    return [RunDir(path) for path in sorted(home.runs.iterdir())] if home.runs.exists() else []


def test_without_a_card_the_starter_is_chosen_and_can_be_started(page: Page) -> None:
    expect(page.get_by_role("radio", name="Starter, DoRA")).to_be_checked()
    expect(page.locator("#setup .card b")).to_contain_text(["Starter, DoRA", "Starter, LoRA", "SD"])
    expect(field(page, "Base model")).to_have_value("starter")
    expect(page.locator("#setup")).to_contain_text("Stable Diffusion 1.x · predicts velocity (v)")
    expect(page.locator("#setup")).to_contain_text("16 pictures of 3D icons (sample)")
    expect(start(page)).to_be_enabled()
    (on_a_card,) = page.locator("#setup .card:has(input:checked) .figs span", has_text="VRAM").all_inner_texts()
    memory = page.locator("#setup .figures div", has_text="Memory")
    expect(memory).to_contain_text(f"; {on_a_card.removesuffix(' VRAM')} on a card")


def test_few_fields_are_visible_at_first(page: Page) -> None:
    above = page.locator("#setup .top .setting")
    expect(above).to_have_count(7)  # and the presets
    expect(field(page, "Learning rate")).to_be_hidden()


def test_a_preset_brings_its_values(page: Page) -> None:
    page.get_by_text("SDXL subject, LoRA").click()
    preset = load_config("sdxl-subject-lora", ["data.folder=."])
    expect(field(page, "Base model")).to_have_value(preset.model.base)
    expect(field(page, "Rank")).to_have_value(str(preset.adapter.rank))
    expect(page.get_by_role("radio", name="LoRA", exact=True)).to_be_checked()
    expect(page.get_by_role("radio", name="Output dim")).to_be_disabled()
    expect(page.locator("#setup")).to_contain_text("Stable Diffusion XL")


def test_another_set_is_trained_with_the_first(page: Page, home: Home) -> None:
    before = runs(home)
    page.get_by_label("Train another set with them").select_option("Penguin (sample)")
    beside = page.get_by_role("list", name="Sets beside the first one").get_by_role("listitem")
    expect(beside).to_contain_text("pictures of Penguin (sample), “a sks penguin”")
    repeats = page.get_by_label("Repeats of Penguin (sample)")
    repeats.focus()
    page.keyboard.press("ArrowUp")
    expect(field(page, "More sets")).to_have_value(re.compile(r"^\{.*repeats = 2\}$"))
    expect(repeats).to_be_focused()  # for the next press
    start(page).click()
    page.wait_for_url("**place=train*")
    (run,) = [run for run in runs(home) if run not in before]
    (more,) = parse_config(read_toml(run.config_file)).data.more
    assert (more.folder.name, more.instance_prompt, more.repeats) == ("subject", "a sks penguin", 2)


def test_a_set_beside_the_first_is_taken_out(page: Page) -> None:
    page.get_by_label("Train another set with them").select_option("Penguin (sample)")
    page.get_by_role("button", name="Remove Penguin (sample)").click()
    expect(page.get_by_role("list", name="Sets beside the first one").get_by_role("listitem")).to_have_count(0)
    expect(page.get_by_label("Train another set with them").get_by_role("option")).to_contain_text(["Penguin (sample)"])
    expect(page.locator("#setup")).to_contain_text("As the preset has it.")


def test_a_wrong_value_stays_and_its_sentence_stands_at_the_field_and_at_start(page: Page) -> None:
    fill(page, "Steps", "abc")
    sentence = "train.steps is 'abc': give a whole number from 1 to 1000000"
    expect(page.locator('#setup [data-key="train.steps"]').get_by_role("alert")).to_have_text(sentence)
    expect(field(page, "Steps")).to_have_attribute("aria-invalid", "true")
    expect(field(page, "Steps")).to_have_value("abc")
    expect(page.get_by_role("list", name="Problems")).to_contain_text(sentence)
    expect(start(page)).to_be_disabled()
    expect(page.locator("#setup .reason")).to_have_text("Cannot start: the problem above.")
    field(page, "Rank").focus()
    page.get_by_role("button", name="train.steps", exact=True).click()
    expect(field(page, "Steps")).to_be_focused()
    fill(page, "Steps", "40")
    expect(start(page)).to_be_enabled()
    expect(page.locator("#setup")).to_contain_text("20 passes over 16 pictures")


def test_a_problem_of_an_advanced_setting_leads_there(page: Page) -> None:
    page.locator("#setup .advanced summary").click()
    fill(page, "Learning rate", "7")
    page.locator("#setup .advanced summary").click()
    page.get_by_role("button", name="optim.learning_rate", exact=True).click()
    expect(field(page, "Learning rate")).to_be_focused()
    expect(field(page, "Learning rate")).to_be_visible()


def test_a_base_model_that_is_none_is_told_at_once(page: Page) -> None:
    fill(page, "Base model", "/nowhere/model")
    expect(page.locator('#setup [data-key="model.base"] .error')).to_contain_text("'/nowhere/model' is not there")
    fill(page, "Base model", "stabilityai/stable-diffusion-xl-base-1.0")
    expect(page.locator('#setup [data-key="model.base"] .help')).to_contain_text("Stable Diffusion XL")


def test_a_refresh_and_a_second_tab_show_what_was_typed(idle: Server, page: Page, open_page: OpenPage) -> None:
    fill(page, "Name", HOSTILE)
    fill(page, "Rank", "none of it")
    page.reload()
    expect(field(page, "Name")).to_have_value(HOSTILE)
    expect(field(page, "Rank")).to_have_value("none of it")
    other = at_setup(open_page, idle)
    expect(field(other, "Name")).to_have_value(HOSTILE)
    fill(other, "Rank", "6")
    expect(field(page, "Rank")).to_have_value("6")


def test_a_restart_of_the_server_keeps_the_draft_and_the_page_goes_on(
    tmp_path: Path, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected += ["net::ERR_", "network error", "Failed to fetch", "Connection errored out"]
    with running(tmp_path / "home") as server:
        page = at_setup(open_page, server)
        fill(page, "Rank", "31")
        server.kill()
        field(page, "Alpha").fill("15.5")  # while it is down
        expect(page.locator("#setup .state")).to_contain_text("not saved")
        server.start()
        expect(page.locator("#setup")).to_contain_text("alpha / rank = 0.5")
        again = at_setup(open_page, server)
        expect(field(again, "Rank")).to_have_value("31")
        expect(field(again, "Alpha")).to_have_value("15.5")


def test_typing_goes_on_undisturbed_while_the_page_follows_the_disk(page: Page) -> None:
    text = "a name that takes longer than two ticks"
    field(page, "Name").fill("")
    field(page, "Name").press_sequentially(text, delay=60)
    expect(field(page, "Name")).to_be_focused()
    expect(field(page, "Name")).to_have_value(text)


def test_the_filter_finds_by_title_key_and_meaning(page: Page) -> None:
    page.locator("#setup .advanced summary").click()
    search = field(page, "Filter")
    for words in ("Min-SNR", "min_snr_gamma", "weigh timesteps"):
        search.fill(words)
        expect(page.locator("#setup .sections .setting:visible")).to_have_count(1)
        expect(field(page, "Min-SNR gamma")).to_be_visible()
    search.fill("rank")
    page.locator("#setup .found").get_by_role("button", name="Rank", exact=True).click()
    expect(field(page, "Rank")).to_be_focused()
    expect(search).to_have_value("rank")
    search.fill("no such thing")
    expect(page.locator("#setup .found")).to_have_text("0 found.")


def test_what_was_changed_is_marked_and_goes_back_to_the_preset(page: Page) -> None:
    fill(page, "Rank", "31")
    expect(page.locator('#setup [data-key="adapter.rank"]')).to_have_class(re.compile("changed"))
    expect(page.locator("#setup .changes")).to_contain_text("Rank")
    page.get_by_role("button", name="Rank: back to preset").click()
    expect(field(page, "Rank")).to_have_value(RANK)
    expect(page.locator("#setup .changes")).to_contain_text("As the preset has it.")


def test_another_preset_and_undo(page: Page) -> None:
    fill(page, "Rank", "31")
    page.get_by_text("Starter, LoRA").click()
    expect(field(page, "Rank")).to_have_value(RANK)
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(field(page, "Rank")).to_have_value("31")
    expect(page.get_by_role("radio", name="Starter, DoRA")).to_be_checked()


def test_the_axis_says_where_it_renders_exactly(page: Page) -> None:
    axis = page.locator('#setup [data-key="adapter.norm_axis"] .help')
    expect(axis).to_contain_text("ComfyUI")
    page.get_by_text("Output dim").click()
    expect(axis).to_contain_text("Renders exactly in SD.Next, LyCORIS; in diffusers, PEFT")


def test_an_optional_section_is_a_switch(page: Page) -> None:
    page.locator("#setup .advanced summary").click()
    expect(field(page, "Class prompt")).to_be_disabled()
    field(page, "Prior preservation").check()
    expect(page.locator("#setup .problems")).to_contain_text("data.prior.class_prompt is ''")
    fill(page, "Class prompt", "an icon")
    expect(start(page)).to_be_enabled()


def test_a_double_click_on_start_makes_one_run_and_shows_it(home: Home, page: Page) -> None:
    before = runs(home)
    fill(page, "Name", HOSTILE)
    start(page).dblclick()
    page.wait_for_url("**place=train*")
    (run,) = [run for run in runs(home) if run not in before]
    page.wait_for_url(f"**run={run.id}*")
    assert parse_config(read_toml(run.config_file)).name == HOSTILE
    assert [entry.job.runs for entry in Queue(home).list_jobs(UNDONE)] == [(run.path,)]
    page.get_by_role("tab", name="2 Setup").click()
    expect(page.locator("#setup .reason")).to_have_text("Waits behind 1 job in the queue.")


def test_start_in_two_tabs_at_once_makes_one_run(idle: Server, home: Home, page: Page, open_page: OpenPage) -> None:
    before = runs(home)
    other = at_setup(open_page, idle)
    for each in (page, other):
        expect(start(each)).to_be_enabled()
    for each in (page, other):  # both clicks are made before either is answered
        each.evaluate("document.querySelector('#setup .start').click()")
    for each in (page, other):
        each.wait_for_url("**place=train*")
    assert len(runs(home)) == len(before) + 1


def test_both_makes_a_pair_in_one_job(home: Home, page: Page) -> None:
    before = runs(home)
    page.get_by_text("Both", exact=True).click()
    page.get_by_role("button", name="Start both runs").click()
    page.wait_for_url("**place=train*")
    made = [run for run in runs(home) if run not in before]
    assert [parse_config(read_toml(run.config_file)).adapter.kind for run in made] == ["dora", "lora"]
    (entry,) = Queue(home).list_jobs(UNDONE)
    assert (entry.job.kind, set(entry.job.runs)) == ("twin", {run.path for run in made})


def test_full_is_a_kind_to_which_no_rank_and_no_axis_belong(home: Home, page: Page) -> None:
    before = runs(home)
    page.get_by_text("Full", exact=True).click()
    for name in ("Rank", "Alpha"):
        expect(field(page, name)).to_be_disabled()
    expect(page.get_by_role("radio", name="Input dim")).to_be_disabled()
    page.locator("#setup .start").click()
    page.wait_for_url("**place=train*")
    (made,) = [run for run in runs(home) if run not in before]
    assert parse_config(read_toml(made.config_file)).adapter.kind == "full"
    page.get_by_role("tab", name="2 Setup").click()
    page.get_by_text("DoRA", exact=True).first.click()
    expect(field(page, "Rank")).to_be_enabled()


def test_a_run_that_was_made_fills_the_form(home: Home, page: Page) -> None:
    folder = home.path / "sets" / "subject"
    config = config_from({"preset": "starter-lora"}, [f"data.folder={folder}", "adapter.rank=5", "name=filling"])
    run = RunDir.create(home.runs, config)
    field(page, "Fill from a run").select_option(run.id)
    expect(field(page, "Rank")).to_have_value("5")
    expect(page.get_by_role("radio", name="Starter, LoRA")).to_be_checked()
    expect(page.locator("#setup .pictures")).to_contain_text("Penguin (sample)")


def test_the_command_that_is_shown_gives_the_same_run(home: Home, page: Page) -> None:
    fill(page, "Name", 'it\'s "quoted"')
    page.get_by_text("Show the command").click()
    shown = page.get_by_label("Command", exact=True).inner_text()
    *words, option, where = shlex.split(shown)
    assert (words[:2], option, where) == (["dora-studio", "train"], "--home", str(home.path))
    start(page).click()
    page.wait_for_url("**place=train*")
    (entry,) = Queue(home).list_jobs(UNDONE)
    assert load_config(words[2], words[3:], home) == parse_config(read_toml(RunDir(entry.job.runs[0]).config_file))


def test_a_preset_of_one_s_own_is_saved_and_chosen(home: Home, page: Page) -> None:
    fill(page, "Rank", "31")
    page.get_by_text("Save as a preset of your own").click()
    field(page, "Name of the preset").fill(HOSTILE)
    page.get_by_role("button", name="Save preset").click()
    expect(page.locator("#setup .card:has(input:checked)")).to_contain_text(HOSTILE)
    expect(field(page, "Rank")).to_have_value("31")
    expect(page.locator("#setup .changes")).to_contain_text("As the preset has it.")
    (file,) = (home.path / "presets").glob("*.toml")
    file.write_text("= broken")
    expect(page.get_by_role("list", name="Presets that cannot be read")).to_contain_text("no valid TOML")
    file.unlink()


def test_a_broken_draft_is_told(idle: Server, home: Home, open_page: OpenPage) -> None:
    (home.path / "draft.toml").write_text("= broken")
    page = at_setup(open_page, idle)
    expect(page.locator("#setup .note")).to_contain_text("draft-broken-")
    fill(page, "Rank", "3")
    expect(page.locator("#setup .note")).to_be_hidden()


def test_without_pictures_start_says_so_and_leads_to_them(tmp_path: Path, idle: Server, home: Home, page: Page) -> None:
    page.locator("#setup .advanced summary").click()
    fill(page, "Pictures", str(tmp_path))
    expect(page.get_by_role("list", name="Problems")).to_contain_text("it holds no pictures")
    expect(start(page)).to_be_disabled()
    page.get_by_role("button", name="Change", exact=True).click()
    page.wait_for_url("**place=images*")


@pytest.mark.parametrize("width", [390, 1000, 1440])
def test_nothing_is_wider_than_the_screen(idle: Server, home: Home, open_page: OpenPage, width: int) -> None:
    page = at_setup(open_page, idle, width=width)
    page.locator("#setup .advanced summary").click()
    fill(page, "Name", "long" * 60)
    page.get_by_text("Show the command").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
