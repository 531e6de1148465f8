"""The plan of a run: what is there, what it takes, and every problem, before anything is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from rich.console import Console

from tests.trainer.conftest import write_pictures
from trainer import writer_packages
from trainer.cli_plan import print_plan, summary
from trainer.config_io import config_from, parse_config
from trainer.data.dataset import BatchOrder, bucket_groups, make_examples
from trainer.data.report import DatasetReport, dataset_notices, least_tokens, notices_of_all, report_dataset
from trainer.disk import MARGIN_BYTES
from trainer.home import Home
from trainer.plan import Machine, Plan, plan
from trainer.speed import record_speed

GIB = 2**30
PROCESSOR, CARD = Machine("the processor", 16 * GIB, False), Machine("a card", 8 * GIB, True)
PIXELS: dict[str, Any] = {"resolution_px": 64, "bucket_step_px": 8, "smallest_side_px": 16}


@pytest.fixture
def make_plan(tmp_path: Path, tiny_base: Callable[[str], Path], picture_folder: Path) -> Callable[..., Plan]:
    """A plan of the tiny model and five pictures, settings changed by section."""

    def made(machine: Machine = PROCESSOR, **sections: Any) -> Plan:
        values: dict[str, Any] = {
            "model": {"base": str(tiny_base("sd1"))},
            "data": {"folder": str(picture_folder), "instance_prompt": "a sks thing", **PIXELS},
            "train": {"steps": 12},
        }
        for section, settings in sections.items():
            values[section] = {**values.get(section, {}), **settings}
        return plan(parse_config(values), Home(tmp_path / "home"), machine)

    return made


def keys(found: Plan) -> list[str]:
    return [problem.key for problem in found.problems]


def test_optimizers_that_cannot_work_here_and_schedules_that_do_not_suit_them_are_told(
    make_plan: Callable[..., Plan],
) -> None:
    found = make_plan(optim={"kind": "adamw8bit"})
    assert keys(found) == ["optim.kind"]
    assert str(found.problems[0]) == "optim.kind is adamw8bit, which needs an NVIDIA card: set it to adamw"
    assert any("constant suits it" in notice for notice in make_plan(optim={"kind": "adamw-schedule-free"}).notices)
    restarts = make_plan(optim={"kind": "prodigy"}, schedule={"cycles": 3})
    assert any("prodigy finds its rate best without restarts" in notice for notice in restarts.notices)
    assert not any("prodigy" in notice for notice in make_plan(optim={"kind": "prodigy"}).notices)


def test_globs_of_ranks_that_no_adapted_layer_has_are_a_problem_with_what_comes_near(
    make_plan: Callable[..., Plan],
) -> None:
    (problem,) = make_plan(adapter={"ranks": {"*.attn2.to_qq": 4}}).problems
    assert problem.key == "adapter.ranks"
    assert "'*.attn2.to_qq'; near it: attn2.to_q" in problem.sentence
    assert make_plan(adapter={"ranks": {"*.attn2.to_q": 4}}).is_ready
    small, large = (make_plan(adapter={"ranks": {"*": rank}}).trainable["unet"] for rank in (1, 3))
    assert small < large


def test_a_good_config_has_a_plan_without_problems(make_plan: Callable[..., Plan]) -> None:
    found = make_plan()
    assert found.problems == ()
    assert found.is_ready
    assert found.pictures == sum(found.datasets[0].buckets.values()) == 5
    assert (found.datasets[0].captions.found, len(found.datasets[0].captions.missing)) == (3, 2)
    assert found.memory is not None
    assert found.memory.peak_bytes > 0
    assert found.seconds is None


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (2, 1), (4, 3)])
def test_passes_are_those_that_the_order_of_batches_makes(
    make_plan: Callable[..., Plan], batch_size: int, accumulation: int
) -> None:
    found = make_plan(train={"batch_size": batch_size, "accumulation": accumulation})
    groups = bucket_groups(make_examples(found.datasets[0]))
    order = BatchOrder(groups, batch_size, 0, "instance")
    assert found.passes == pytest.approx(12 * accumulation / order.batches_per_pass)


def test_minutes_are_steps_at_the_speed_measured_here(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    record_speed(Home(tmp_path / "home"), make_plan().config, "cpu", 0.5)
    assert make_plan().seconds == pytest.approx(12 * 0.5)
    assert make_plan(train={"twin": True}).seconds == pytest.approx(2 * 12 * 0.5)


def test_a_twin_run_takes_the_time_and_the_disk_of_both_and_the_memory_of_the_larger(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    lora, dora = (make_plan(adapter={"kind": kind}) for kind in ("lora", "dora"))
    for one, seconds in ((lora, 0.5), (dora, 0.75)):
        record_speed(Home(tmp_path / "home"), one.config, "cpu", seconds)
    twin = make_plan(train={"twin": True}, adapter={"kind": "lora"})
    assert twin.seconds == pytest.approx(12 * (0.5 + 0.75))
    for part in ("checkpoints", "exported files", "samples"):
        assert size(twin, part) == size(lora, part) + size(dora, part)
    assert size(twin, "prepared pictures") == size(lora, "prepared pictures")
    assert dora.memory is not None
    assert lora.memory is not None
    assert twin.memory == dora.memory
    assert dora.memory.peak_bytes > lora.memory.peak_bytes


def test_the_output_axis_takes_a_file_more_for_each_program_that_needs_its_own(make_plan: Callable[..., Plan]) -> None:
    one, three = (make_plan(adapter={"kind": "dora", "norm_axis": axis}) for axis in ("input", "output"))
    each = [size(found, "exported files") / sum(found.trainable.values()) for found in (one, three)]
    assert each == [4, 12]


def size(found: Plan, name: str) -> int:
    return next(part.size_bytes for part in found.disk if part.name.startswith(name))


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"data": {"folder": "/nowhere/at/all"}}, "data.folder", "there is no such folder"),
        ({"model": {"base": "/nowhere.safetensors"}}, "model.base", "is not there"),
        ({"model": {"base": "model.ckpt"}}, "model.base", "is a pickle"),
        ({"data": {"instance_prompt": ""}}, "data.instance_prompt", "2 of 5 pictures have no caption"),
        ({"adapter": {"include": ["*.atn1.*"]}}, "adapter.include", "'*.atn1.*': no layer"),
        ({"adapter": {"exclude": ["*"]}}, "adapter.exclude", "leaves no layer"),
        ({"adapter": {"rank": 512}}, "adapter.rank", "no layer of the unet can have more than 16"),
    ],
)
def test_what_keeps_a_run_from_starting_is_a_problem_that_names_its_key(
    make_plan: Callable[..., Plan], sections: Any, key: str, words: str
) -> None:
    found = make_plan(**sections)
    assert keys(found) == [key]
    assert words in str(found.problems[0])
    assert str(found.problems[0]).startswith(key)
    assert not found.is_ready


def test_every_set_is_told_and_its_problems_and_notices_by_its_name(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    more, kept = (write_pictures(tmp_path / name, [(64, 64), (64, 64)]) for name in ("more", "kept"))
    (more / "00.txt").write_text("seen from the left")
    sets = [
        {"folder": str(more), "repeats": 3, "weight": 0.5, "flip": True, "trigger": "zxc"},
        {"folder": str(kept), "role": "prior-prediction", "instance_prompt": "a thing", "mask": {"source": "alpha"}},
    ]
    found = make_plan(data={"more": sets}, train={"steps": 22})
    assert found.problems == ()
    assert found.pictures == 9
    assert found.passes == 22 / (5 + 2 * 3)
    assert "more: 1 (00.png): with left or right in the caption, and flip shows half of them mirrored" in found.notices
    assert "kept: 2 (00.png, 01.png): without a mask: all of it counts" in found.notices
    lines = dict(summary(found))["pictures"].splitlines()
    assert [line.partition(":")[0] for line in lines] == ["my pictures", "more", "kept"]
    assert lines[1].endswith("0 left out; 3 repeats, weight 0.5, mirrored too")
    assert lines[2].endswith("0 left out; prior prediction, 0 masks")
    sets[1]["mask"], sets[0]["folder"] = {"source": "/nowhere"}, str(tmp_path / "gone")
    assert [str(problem) for problem in make_plan(data={"more": sets}).problems] == [
        f"data.more, entry 1: folder is {str(tmp_path / 'gone')!r}: there is no such folder, give one with pictures",
        "data.more, entry 2: mask.source: there is no folder '/nowhere', give one, or alpha",
    ]


def test_kohyas_folder_names_are_read_as_the_settings_that_say_the_same(
    make_plan: Callable[..., Plan], picture_folder: Path
) -> None:
    write_pictures(picture_folder / "10_sks dog", [(40, 40)])
    (notice,) = (notice for notice in make_plan().notices if "10_sks dog" in notice)
    setting = notice.partition("kohya's trainer: ")[2]
    (one,) = config_from({"model": {"base": "x"}, "data": {"folder": "y"}}, [setting]).data.more
    assert (one.folder, one.repeats, one.instance_prompt) == (picture_folder / "10_sks dog", 10, "sks dog")
    only = make_plan(data={"folder": str(picture_folder / "10_sks dog")})
    assert any("repeats=10 and instance_prompt='sks dog'" in notice for notice in only.notices)
    (above,) = make_plan(data={"folder": str(picture_folder.parent)}).problems
    assert "folders with pictures in it: my pictures" in str(above)


@pytest.mark.parametrize(
    ("caption", "data", "words"),
    [
        ("one, two", {}, "4 texts are encoded once and kept"),  # numbers 0 and 1, this, the prompt of the set
        ("one, two", {"caption_dropout": 0.1}, "5 texts are encoded once and kept"),
        ("one, two", {"shuffle_tags": True}, "7 texts are encoded once and kept"),  # each of the three has two orders
        ("a, b, c, d", {"shuffle_tags": True}, "captions of 1 pictures have too many wordings to keep"),
    ],
)
def test_how_texts_get_to_the_model_is_decided_and_said(
    make_plan: Callable[..., Plan], picture_folder: Path, caption: str, data: dict[str, Any], words: str
) -> None:
    (picture_folder / "02.txt").write_text(caption)
    assert words in dict(summary(make_plan(data=data)))["captions"]
    trained = make_plan(data=data, adapter={"text_encoder": True})
    assert "the text encoder is trained" in dict(summary(trained))["captions"]


@pytest.mark.parametrize(
    ("file", "content", "data", "key", "words"),
    [
        ("metadata.jsonl", "[broken", {}, "data.folder", "metadata.jsonl, line 1, is not"),
        ("02.txt", "a {red|green ball", {"wildcards": True}, "data.wildcards", "1 (02.png): a caption with a brace"),
    ],
)
def test_captions_that_cannot_be_meant_are_a_problem(
    make_plan: Callable[..., Plan],
    picture_folder: Path,
    file: str,
    content: str,
    data: dict[str, Any],
    key: str,
    words: str,
) -> None:
    (picture_folder / file).write_text(content)
    found = make_plan(data=data)
    assert keys(found) == [key]
    assert words in str(found.problems[0])


def test_all_problems_are_told_at_once(make_plan: Callable[..., Plan]) -> None:
    assert keys(make_plan(data={"folder": "/nowhere"}, model={"base": "x.pt"})) == ["data.folder", "model.base"]


def test_pictures_without_captions_need_no_prompt_when_all_have_one(
    make_plan: Callable[..., Plan], picture_folder: Path
) -> None:
    for picture in picture_folder.glob("*.png"):
        picture.with_suffix(".txt").write_text("a thing")
    assert make_plan(data={"instance_prompt": ""}).is_ready


@pytest.mark.parametrize(
    ("count", "words"), [(0, "holds no pictures"), (9, "are few"), (51, ""), (201, "are many"), (500, "are many")]
)
def test_no_pictures_stop_a_run_and_few_or_many_are_a_word(
    tmp_path: Path, make_plan: Callable[..., Plan], count: int, words: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (16, 16), (number, number // 2, 9)).save(folder / f"{number}.png")
    found = make_plan(data={"folder": str(folder)})
    assert found.is_ready == (count > 0)
    said = [*map(str, found.problems), *found.notices]
    assert any(words in text for text in said) if words else not any("are few" in t or "are many" in t for t in said)


def test_a_folder_with_nothing_usable_says_how_many_files_it_looked_at(
    tmp_path: Path, make_plan: Callable[..., Plan]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.pdf"):
        (folder / name).write_bytes(b"nothing")
    found = make_plan(data={"folder": str(folder)})
    assert "2 files, none of which can be used" in str(found.problems[0])
    assert sum("is left out" in notice for notice in found.notices) == 2


def report_of(folder: Path, **data: Any) -> DatasetReport:
    config = parse_config({"model": {"base": "x"}, "data": {"folder": str(folder), **PIXELS, **data}})
    return report_dataset(config.data, config.data)


def test_every_peculiarity_of_a_picture_is_told_with_its_name(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (80, 70)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (80, 71), (1, 2, 3, 4)).save(tmp_path / "glass.png")
    Image.new("CMYK", (80, 72)).save(tmp_path / "print.jpg")
    frames = [Image.new("L", (80, 73), shade) for shade in (0, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (20, 21)).save(tmp_path / "small.png")
    Image.new("RGB", (300, 80)).save(tmp_path / "wide.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "small.png").read_bytes())
    (tmp_path / "orphan.txt").write_text("of nothing")
    (tmp_path / "glass.txt").write_text("one two " * 50)
    notices = dataset_notices(report_of(tmp_path), tokens=77) + notices_of_all([report_of(tmp_path)], batch_size=3)
    for start, words in {
        "1 (turned.jpg): stored turned": "trained upright",
        "1 (glass.png): transparent": "background",
        "1 (moving.gif): animated": "first frame",
        "2 (moving.gif, print.jpg): not in RGB": "converted",
        "1 (copy.png): smaller": "enlarged",
        "1 (wide.png): cut by more than 20%": "data.bucket_ratio",
        "small.png is left out": "the same picture as copy.png",
        "5 (copy.png, moving.gif, print.jpg and 2 more): without a caption": "prompt of the set",
        "1 (orphan.txt): a caption of no picture": "not used",
        "1 (glass.png): with a caption longer than the 77 tokens": "cut off",
        "sizes with fewer pictures than a batch of 3": "repeat",
    }.items():
        assert [notice for notice in notices if notice.startswith(start) and words in notice], start


def test_no_picture_is_lost_between_scan_and_buckets(tmp_path: Path) -> None:
    for number, size in enumerate([(64, 64), (640, 64), (17, 300), (90, 1000), (33, 32)]):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    report = report_of(tmp_path, longest_ratio=100)
    assert report.count == len(report.placements) == 5


def test_least_tokens_never_exceeds_what_clips_tokenizer_makes(tiny_base: Callable[[str], Path]) -> None:
    from transformers import CLIPTokenizer  # noqa: PLC0415 - slow to import, for this one test

    tokenizer = CLIPTokenizer.from_pretrained(tiny_base("sd1") / "tokenizer")
    for text in ("", "a cat", "it's 1234 o'clock!!! (really)", "a_b — naïve 日本 🦊🦊", "x" * 99):
        assert least_tokens(text) <= len(tokenizer(text).input_ids)


def test_a_card_that_is_too_small_is_a_notice_with_what_would_make_it_fit(make_plan: Callable[..., Plan]) -> None:
    train = {"batch_size": 64}
    memory = make_plan(CARD, train=train).memory
    assert memory is not None
    assert not any("may not fit" in notice for notice in make_plan(CARD, train=train).notices)
    (tight,) = fitting_notices(make_plan(Machine("a card", int(memory.peak_bytes / 0.95) - 2**20, True), train=train))
    assert "set train.checkpointing to true and train.checkpointed to transformers (they are false and all)" in tight
    assert re.search(r"which saves \d+ MiB; then it takes about 0\.\d GiB$", tight)
    (hopeless,) = fitting_notices(make_plan(Machine("a tiny card", 100 * 2**20, True), train=train))
    assert "set train.checkpointing to true (it is false), which saves" in hopeless
    assert hopeless.endswith("; choose a smaller base model")


def fitting_notices(made: Plan) -> list[str]:
    return [notice for notice in made.notices if "may not fit" in notice]


def test_a_full_disk_is_a_problem(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    need = make_plan().disk_bytes
    for free, is_ready in ((need + MARGIN_BYTES, True), (need + MARGIN_BYTES - 1, False)):
        monkeypatch.setattr("trainer.plan.free_bytes", lambda path, free=free: free)
        assert make_plan().is_ready == is_ready


def test_a_model_that_is_still_to_be_fetched_is_planned_from_its_family(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    known = make_plan(model={"base": "stabilityai/stable-diffusion-xl-base-1.0"})
    assert known.memory is not None
    assert not any(part.is_counted for part in known.memory.step)
    assert any("it is fetched first" in notice for notice in known.notices)
    unknown = make_plan(model={"base": "somebody/something"})
    assert (unknown.memory, dict(unknown.trainable)) == (None, {})
    assert any("once it has been fetched" in notice for notice in unknown.notices)
    assert unknown.is_ready


def test_captions_and_names_with_marks_are_printed_as_they_are(
    make_plan: Callable[..., Plan], picture_folder: Path
) -> None:
    odd = "[bold] ${alert(1)} {{x}}.txt"
    (picture_folder / odd).write_text("[red]of no picture")
    output = StringIO()
    print_plan(make_plan(), Console(file=output, width=300))
    assert odd in output.getvalue()


def run_plan(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.cli", "plan", *arguments, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.skipif(sys.platform == "win32", reason="names of Windows are always text")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "cp1252:strict", "ascii:strict"])
def test_names_that_the_console_has_no_characters_for_are_printed_as_far_as_it_can(
    tmp_path: Path, tiny_base: Callable[[str], Path], encoding: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "good 🦊.png")
    for name in (os.fsdecode(b"\xff.png"), "new\nline.png", "emoji 🦊.png"):
        (folder / name).touch()
    settings = [f"model.base={tiny_base('sd1')}", f"data.folder={folder}", "data.instance_prompt=a thing"]
    shown = run_plan("starter-dora", *settings, home=tmp_path, PYTHONIOENCODING=encoding)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("is left out: empty file") == 3


def test_the_command_prints_the_plan_and_its_code_says_whether_it_can_start(
    tmp_path: Path, tiny_base: Callable[[str], Path], picture_folder: Path
) -> None:
    settings = [f"model.base={tiny_base('sd1')}", f"data.folder={picture_folder}", "data.instance_prompt=a thing"]
    good = run_plan("starter-dora", *settings, home=tmp_path / "home")
    assert good.returncode == 0, good.stderr
    assert "3 found, 2 missing" in good.stdout
    bad = run_plan("starter-dora", *settings, "data.folder=/nowhere", home=tmp_path / "home")
    assert bad.returncode == 1
    assert "there is no such folder" in bad.stdout
    worse = run_plan("starter-dora", *settings, "train.stepz=3", home=tmp_path / "home")
    assert worse.returncode == 1
    assert "did you mean train.steps?" in worse.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("family", "sections", "words"),
    [
        ("sd2", {"noise": {"offset": 0.05}}, "noise.offset is 0.05 and the model has zero terminal SNR"),
        ("sd2", {"loss": {"weighting": "min-snr"}}, "where there is only noise the weight is 0"),
        ("sd2", {"noise": {"timestep_range": [0.0, 0.5]}}, "noise.timestep_range ends at 0.5"),
        ("sd1", {"noise": {"offset": 0.05, "pyramid": 0.3}}, "noise.offset and noise.pyramid are for the same"),
        ("sd1", {"noise": {"offset": 0.3}}, "noise.offset is 0.3: above 0.2"),
        ("sd1", {"noise": {"timestep_range": [0.5, 0.55]}}, "[0.5, 0.55]: little of the noise schedule"),
        ("sd1", {"noise": {"timesteps": "mode"}, "loss": {"weighting": "p2"}}, "both weigh timesteps"),
        ("sd1", {"loss": {"kind": "huber", "delta": 2, "delta_schedule": "snr"}}, "loss.delta is 2"),
    ],
)
def test_odd_settings_of_loss_and_noise_are_told(
    make_plan: Callable[..., Plan],
    tiny_base: Callable[[str], Path],
    family: str,
    sections: dict[str, dict[str, Any]],
    words: str,
) -> None:
    plain = make_plan(model={"base": str(tiny_base(family))}).notices
    found = make_plan(model={"base": str(tiny_base(family))}, **sections)
    (told,) = set(found.notices) - set(plain)
    assert words in told
    assert found.is_ready


def test_what_suits_zero_terminal_snr_depends_on_what_the_run_says_of_it(
    make_plan: Callable[..., Plan], tiny_base: Callable[[str], Path]
) -> None:
    offset = {"offset": 0.05}
    assert not any("noise.offset" in notice for notice in make_plan(noise=offset).notices)
    base = str(tiny_base("sd2"))
    switched_off = make_plan(model={"base": base, "zero_terminal_snr": False}, noise=offset)
    assert not any("noise.offset" in notice for notice in switched_off.notices)
    switched_on = make_plan(model={"prediction": "v", "zero_terminal_snr": True}, noise=offset)
    assert any("noise.offset" in notice for notice in switched_on.notices)


def test_a_writer_that_cannot_work_is_a_problem(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_packages, "find_spec", lambda name: None)
    found = make_plan(log={"tensorboard": True})
    assert keys(found) == ["log.tensorboard"]
    assert not found.is_ready
