"""The place Adapters in a real browser."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from app.adapter_files import files_of
from tests.app import pictures
from tests.app.conftest import OpenPage, Server, Watch
from tests.app.made_runs import config
from tests.app.twin_home import EVIL, TwinHome
from trainer.config import RunConfig
from trainer.home import Home
from trainer.queue import Queue
from trainer.run_dir import RunDir

pytestmark = pytest.mark.browser
REFUSED = "Failed to load resource"  # what Chromium writes of an answer with a status of 400 and above
EXPORTING_MS = 150_000  # a process that loads torch, on a loaded machine
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SCENE = {"prompt": EVIL, "negative": "grey", "seed": 2**40 + 1, "steps": 20, "guidance": 6.5, "width": 96, "height": 64}


def adapters(host: Server, open_page: OpenPage, **view: int | bool) -> Page:
    page = open_page(f"{host.url}?place=adapters", **view)
    page.wait_for_selector("#adapters [data-rev]", state="attached")
    return page


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name, exact=True)


def test_without_files_it_leads_to_setup(idle: Server, open_page: OpenPage) -> None:
    page = adapters(idle, open_page)
    expect(page.get_by_text("No adapter yet: train one.")).to_be_visible()
    page.get_by_role("button", name="Go to Setup").click()
    expect(page.get_by_role("tab", name="2 Setup")).to_have_attribute("aria-selected", "true")


def test_files_are_told_with_what_is_proven_of_them(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = adapters(host, open_page)
    (file,) = files_of(twins.dora)
    shown, report = row(page, file.path.name), file.report
    assert report is not None
    expect(page.get_by_role("heading", name="Icons <b>3D</b> dora")).to_be_visible()
    expect(shown.locator(".badge")).to_have_text("proven")
    expect(shown.locator(".facts")).to_have_text("DoRA, input axis · rank 2 · ComfyUI and most programs · step 4")
    expect(shown.locator(".where")).to_contain_text("Renders exactly in ComfyUI, Forge, reForge, A1111 >= 1.10")
    expect(shown.locator(".proof")).to_have_text(report["headline"])
    expect(shown.locator(".sha")).to_have_text(f"SHA-256 {report['sha256']}")
    shown.get_by_text("Parity report").click()
    expect(shown.locator(".rows .words")).to_have_text([consumer["words"] for consumer in report["consumers"]])
    colours = shown.locator(".rows .word").evaluate_all(
        "words => words.map(word => [word.textContent, getComputedStyle(word, '::before').backgroundColor])"
    )
    assert dict(colours) == {
        "as trained": "rgb(34, 197, 94)",
        "close": "rgb(245, 158, 11)",
        "coarse": "rgb(245, 158, 11)",
        "wrong": "rgb(239, 68, 68)",
        "not read": "rgb(161, 161, 170)",
    }
    with page.expect_download() as saved:
        shown.get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == file.path.name
    assert saved.value.path().read_bytes() == file.path.read_bytes()


def test_a_file_that_changed_says_so(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    (file,) = [each for each in files_of(twins.dora) if each.path.name.startswith("icons")]
    page = adapters(host, open_page)
    badge = row(page, file.path.name).locator(".badge")
    expect(badge).to_have_text("proven")
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    expect(badge).to_have_text("changed")
    expect(row(page, file.path.name).locator(".proof")).to_contain_text("Export it again.")
    file.path.write_bytes(whole)
    expect(badge).to_have_text("proven")


def test_a_file_is_renamed_thrown_away_and_brought_back(
    host: Server, twins: TwinHome, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    page = adapters(host, open_page)
    (name,) = [file.path.name for file in files_of(twins.lora) if file.path.name.startswith("icons")]
    row(page, name).get_by_role("button", name="Rename").click()
    typed = row(page, name).get_by_label("Name, before .safetensors")
    typed.fill("a/b")
    typed.press("Enter")
    expect(row(page, name).locator(".act .told")).to_contain_text("'a/b' cannot be a file's name.")
    typed.fill("(b)worms(b)")
    typed.press("Enter")
    renamed = row(page, "(b)worms(b).safetensors")
    expect(renamed.locator(".badge")).to_have_text("proven")
    expect(row(page, name)).to_have_count(0)
    renamed.get_by_role("button", name="Delete").click()
    expect(renamed).to_have_count(0)
    assert not (twins.lora.exports_dir / "(b)worms(b).safetensors").exists()
    page.get_by_role("button", name="Undo").click()
    expect(renamed.locator(".badge")).to_have_text("proven")


def test_a_file_is_copied_to_comfyui_and_takes_nobodys_place(
    host: Server, twins: TwinHome, tmp_path: Path, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    loras = tmp_path / "ComfyUI" / "models" / "loras"
    loras.mkdir(parents=True)
    page = adapters(host, open_page)
    (file,) = [each for each in files_of(twins.dora) if each.path.name.startswith("icons")]
    shown = row(page, file.path.name)
    shown.get_by_role("button", name="Copy to ComfyUI").click()
    folder, told = shown.get_by_label("ComfyUI folder"), shown.locator(".act .told")
    folder.fill(str(tmp_path))
    folder.press("Enter")
    expect(told).to_contain_text(f"{tmp_path} is no ComfyUI: it has no folder models/loras.")
    (loras / file.path.name).write_bytes(b"somebody's own")
    folder.fill(str(tmp_path / "ComfyUI"))
    folder.press("Enter")
    expect(told).to_contain_text("is there already, and is another file.")
    shown.get_by_label("Another name").fill("mine")
    shown.get_by_label("Another name").press("Enter")
    expect(told).to_contain_text(f"Copied to {loras / 'mine.safetensors'}.")
    assert (loras / "mine.safetensors").read_bytes() == file.path.read_bytes()
    assert (loras / file.path.name).read_bytes() == b"somebody's own"
    page.reload()
    row(page, file.path.name).get_by_role("button", name="Copy to ComfyUI").click()
    expect(shown.get_by_label("ComfyUI folder")).to_have_value(str(tmp_path / "ComfyUI"))


def test_the_starter_has_no_workflow_and_says_why(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = adapters(host, open_page)
    (file,) = [each for each in files_of(twins.dora) if each.path.name.startswith("icons")]
    shown = row(page, file.path.name)
    shown.get_by_role("button", name="ComfyUI workflow").click()
    expect(shown.locator(".act")).to_have_text(
        "ComfyUI loads models of the released sizes only; starter is smaller, so there is no workflow for it."
    )


@pytest.fixture
def released(twins: TwinHome) -> Generator[RunDir, None, None]:
    """A run with a base model that ComfyUI has, and a sample of its own. Gone afterwards."""
    settings = config("photos").model_dump()
    settings["model"]["base"] = SD15
    run = RunDir.create(twins.path / "runs", RunConfig.model_validate(settings))
    (file,) = [each for each in files_of(twins.dora) if each.path.name.startswith("icons")]
    shutil.copy(file.path, run.exports_dir / "panda.safetensors")
    (run.samples_dir / "step-000004").mkdir()
    (run.samples_dir / "step-000004" / "00.png").write_bytes(pictures.picture())
    (run.samples_dir / "step-000004" / "samples.json").write_text(json.dumps([{"file": "00.png", **SCENE}]))
    yield run
    shutil.rmtree(run.path)


def test_the_workflow_of_a_picture_has_its_prompt_and_seed(host: Server, released: RunDir, open_page: OpenPage) -> None:
    page = adapters(host, open_page)
    shown = row(page, "panda.safetensors")
    expect(shown.locator(".badge")).to_have_text("no report")
    shown.get_by_role("button", name="ComfyUI workflow").click()
    expect(shown.get_by_label("Picture", exact=True).locator("option").first).to_contain_text(
        f"{EVIL}, seed {2**40 + 1} (sample"
    )
    expect(shown.locator(".act ol")).to_contain_text("Put panda.safetensors into ComfyUI's folder models/loras.")
    with page.expect_download() as saved:
        shown.get_by_role("link", name="Workflow (JSON)").click()
    nodes = json.loads(saved.value.path().read_text())
    found = {node["class_type"]: node["inputs"] for node in reversed(nodes.values())}
    assert found["LoraLoader"]["lora_name"] == "panda.safetensors"
    assert found["CLIPTextEncode"]["text"] == EVIL
    assert (found["KSampler"]["seed"], found["KSampler"]["steps"], found["KSampler"]["cfg"]) == (2**40 + 1, 20, 6.5)
    with page.expect_download() as saved:
        shown.get_by_role("link", name="Picture with the workflow in it (PNG)").click()
    with (
        Image.open(io.BytesIO(saved.value.path().read_bytes())) as picture,
        Image.open(io.BytesIO(pictures.picture())) as before,
    ):
        assert json.loads(picture.info["prompt"]) == nodes
        assert picture.tobytes() == before.tobytes()
    # Of the comparison that the file takes part in, too.
    shown.get_by_label("Picture", exact=True).select_option(index=2)
    with page.expect_download() as saved:
        shown.get_by_role("link", name="Workflow (JSON)").click()
    assert '"seed": 1,' in saved.value.path().read_text()


def test_any_file_is_told_by_its_header(
    host: Server, twins: TwinHome, tmp_path: Path, open_page: OpenPage, watch: Watch
) -> None:
    watch.expected.append(REFUSED)
    page = adapters(host, open_page)
    part = page.locator("#what-is")
    (file,) = [each for each in files_of(twins.dora) if each.path.name.startswith("icons")]
    with page.expect_response(re.compile("what-is")) as answer:
        part.locator("input[type=file]").set_input_files(file.path)
    assert 0 < answer.value.request.sizes()["requestBodySize"] < file.path.stat().st_size / 2
    expect(part.locator("h4")).to_have_text("DoRA, norm over the input axis")
    expect(part.locator(".where")).to_contain_text("Renders exactly in ComfyUI")
    expect(part.locator(".wrong")).to_contain_text("diffusers: a plain LoRA: ignores dora_scale")
    expect(part.locator("dl")).to_contain_text("Icons <b>3D</b> dora")
    part.get_by_label("Path on this machine").fill(
        str(twins.lora.checkpoints_dir / "step-000004" / "adapter.safetensors")
    )
    part.get_by_role("button", name="Look", exact=True).click()
    expect(part.locator("h4")).to_contain_text("Adapter in training")
    huge = tmp_path / "huge.safetensors"
    text = json.dumps({"x": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}).encode()
    with open(huge, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + 2**33)
    wrong = {
        "half.safetensors": (file.path.read_bytes()[:-100], "half.safetensors"),
        "junk.safetensors": (b"junk" * 50, "junk.safetensors (200 bytes) is no whole safetensors file"),
        "<b>.ckpt": (b"\x80\x02", "<b>.ckpt is a pickle, which can run code when it is opened, and is refused."),
    }
    part.locator("input[type=file]").set_input_files(huge)
    expect(part.locator(".told")).to_contain_text("the file is no LoRA or DoRA adapter")
    for name, (data, said) in wrong.items():
        part.locator("input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": data})
        expect(part.locator(".told")).to_contain_text(said)
        expect(part.locator(".answer")).to_be_hidden()


def test_a_run_is_exported_for_another_program(host: Server, twins: TwinHome, open_page: OpenPage) -> None:
    page = adapters(host, open_page)
    group = page.get_by_role("region", name="Icons <b>3D</b> lora", exact=True)
    choice = group.get_by_label("Export for another program")
    expect(choice.locator("option")).to_have_text(["ComfyUI, Forge, A1111", "diffusers", "full difference"])
    expect(choice).to_have_value("diffusers")  # what is not there yet
    expect(group.locator(".exact")).to_have_text("Renders exactly in diffusers, PEFT (at every strength).")
    group.get_by_role("button", name="Export").dblclick()
    expect(page.locator("#adapters .job")).to_have_count(1)
    made = group.get_by_role("article", name=re.compile(".*-diffusers.safetensors"))
    expect(made.locator(".badge")).to_have_text("proven", timeout=EXPORTING_MS)
    expect(made.locator(".facts")).to_have_text("LoRA · rank 2 · diffusers · step 4")
    jobs = [entry.job for entry in Queue(Home(twins.path)).list_jobs() if entry.job.kind == "export"]
    assert [job.parameters for job in jobs] == [{"target": "diffusers"}]


def test_a_phone_is_wide_enough(host: Server, open_page: OpenPage) -> None:
    page = adapters(host, open_page, width=390)
    expect(page.locator("#adapters .file").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    edges = page.locator("#adapters .btn, #what-is .btn").evaluate_all(
        "buttons => buttons.map(button => button.getBoundingClientRect().right)"
    )
    assert max(edges) <= 390
