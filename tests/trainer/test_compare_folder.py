"""What a comparison of runs leaves: figures of their own metrics, a page that is safe, and nothing half."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import statistics
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.trainer.conftest import quick_settings, write_pictures
from tests.trainer.full_disk import FullDisk, do_in_child, kind_of
from tests.trainer.killing import in_child
from trainer import cli_compare
from trainer.compare.comparison import compare
from trainer.compare.finished import exported, figures
from trainer.compare.job import run_job
from trainer.compare.manifest import Manifest, read_manifest
from trainer.compare.request import Request, RequestError
from trainer.config_io import parse_config
from trainer.events import MetricsLog, StepMetrics
from trainer.faults import VARIABLE
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.store import Store

EVIL = '<img src=x onerror=alert(1)> & "quotes"'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(Home(tmp_path_factory.mktemp("compared") / "home"))


@pytest.fixture(scope="module")
def runs(store: Store, tiny_base: Callable[[str], Path]) -> list[RunDir]:
    """LoRA and DoRA of one name, two steps each, finished."""
    pictures = write_pictures(store.home.path / "pictures", [(32, 32), (40, 32)])
    made = []
    for kind in ("lora", "dora"):
        settings = quick_settings(tiny_base("sd1"), pictures)
        settings["name"] = f"tiny {kind} <b>"
        settings["adapter"] = {"kind": kind, "rank": 2}
        settings["train"] = {"steps": 2, "validation_every_steps": 1, "validation_pictures": 1}
        made.append(RunDir.create(store.home.runs, parse_config(settings)))
        run_training(made[-1])
    return made


@pytest.fixture(scope="module")
def folder(store: Store, runs: list[RunDir]) -> Path:
    sources = (runs[0].id, runs[1].id, f"{runs[1].id}@1")
    return compare(Request(sources=sources, prompts=(EVIL, "b"), seeds=(3, 4), size_px=(32, 32)), store)


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


def test_figures_are_those_of_the_runs_own_metrics_and_files(manifest: Manifest, runs: list[RunDir]) -> None:
    for column, run in zip(manifest.columns[1:3], runs, strict=True):
        rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
        file = run.path / exported(run).file
        assert column.seconds_per_step == statistics.median(row["seconds"] for row in rows)
        assert column.validation_loss == rows[-1]["validation_loss"] != rows[0]["validation_loss"]
        assert column.peak_mib is None  # nothing measures it on a processor
        assert (column.steps, column.bytes) == (2, file.stat().st_size)
        assert column.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert column.headline == exported(run).headline
    base = manifest.columns[0]
    assert (base.kind, base.file, base.bytes, base.seconds_per_step, base.distance) == ("base", None, None, None, 0)


def test_steps_done_twice_count_as_done_last_and_later_ones_not_at_all(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    log = MetricsLog(run.metrics_file)
    for step, seconds, peak, loss in (
        (1, 9.0, 70.0, 0.5), (2, 1.0, None, 0.4), (1, 2.0, 60.0, None), (3, 4.0, 90.0, 0.1),
    ):  # fmt: skip
        log.append(StepMetrics(step=step, loss=1, seconds=seconds, peak_mib=peak, validation_loss=loss))
    found = figures(run, 2)
    assert (found.seconds_per_step, found.peak_mib, found.validation_loss) == (1.5, 60.0, 0.4)
    assert (figures(run, 0).seconds_per_step, figures(run, 0).validation_loss) == (None, None)


def test_a_checkpoint_is_drawn_from_a_file_exported_there_and_then(
    folder: Path, manifest: Manifest, runs: list[RunDir]
) -> None:
    column = manifest.columns[3]
    assert (column.source, column.steps) == (f"{runs[1].id}@step-000001", 1)
    assert column.file is not None
    data = (folder / column.file).read_bytes()
    assert column.sha256 == hashlib.sha256(data).hexdigest() != manifest.columns[2].sha256
    assert column.headline
    rows = [json.loads(line) for line in runs[1].metrics_file.read_text().splitlines()]
    assert column.seconds_per_step == rows[0]["seconds"]
    assert any(str(column.source) in note and column.file in note for note in manifest.notes)


def test_titles_are_for_people(manifest: Manifest) -> None:
    titles = [column.title for column in manifest.columns]
    assert titles == ["base", "tiny lora <b> LoRA", "tiny dora <b> DoRA", "tiny dora <b> DoRA, step 1"]


def test_rows_are_prompts_by_seeds_and_all_pictures_are_there(folder: Path, manifest: Manifest) -> None:
    assert [(row.prompt, row.seed) for row in manifest.rows] == [(EVIL, 3), (EVIL, 4), ("b", 3), ("b", 4)]
    assert [row.label for row in manifest.rows[2:]] == ["b, seed 3", "b, seed 4"]
    assert len(list((folder / "pictures").iterdir())) == len(manifest.cells) == 16
    for number, cell in enumerate(manifest.cells):
        assert (cell.row, cell.column) == divmod(number, 4)
        with Image.open(folder / cell.picture) as picture:
            assert picture.size == (32, 32)
    with Image.open(folder / "grid.png") as grid:
        assert (grid.width > 4 * 256, grid.height > 4 * 256) == (True, True)
    with Image.open(folder / "layers.png") as plot:
        assert plot.size == (1100, 600)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_runs_nothing_loads_nothing_and_shows_words_as_words(folder: Path, manifest: Manifest) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    tags = Tags(text).found
    assert {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "b"} == set()
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == len(manifest.cells) + 1
    assert all((attributes["src"] or "").startswith("data:image/") and attributes["alt"] for attributes in pictures)
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert all((folder / (link or "?")).is_file() for link in links)
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_command_on_the_page_draws_the_same_again_beside_it(folder: Path, manifest: Manifest, store: Store) -> None:
    _, command, *words = shlex.split(manifest.command)
    assert command == "compare"
    done = CliRunner().invoke(cli_compare.app, ["--home", str(store.home.path), *words])
    assert done.exit_code == 0, done.output
    again = Path(done.output.splitlines()[-1]).parent
    assert again.parent == folder.parent
    assert again != folder
    assert read_manifest(again).command == manifest.command
    for cell in manifest.cells:
        with Image.open(folder / cell.picture) as one, Image.open(again / cell.picture) as other:
            assert one.tobytes() == other.tobytes()


def test_a_job_takes_the_same_words(
    store: Store, runs: list[RunDir], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DORA_STUDIO_HOME", str(store.home.path))
    run_job([runs[0]], {"prompts": ["a"], "strengths": [0, 1], "steps": [1, 2], "size_px": [544, 32]})
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    told = read_manifest(folder)
    assert (folder / "index.html").read_text(encoding="utf-8").count("data:image/jpeg") == 6  # smaller than they are
    assert [column.strength for column in told.columns] == [None, 0, 1]
    assert told.columns[1].title == "tiny lora <b> LoRA, strength 0"
    assert [(row.label, row.steps) for row in told.rows] == [("a, 1 steps", 1), ("a, 2 steps", 2)]
    assert [cell.distance for cell in told.cells if cell.column == 1] == [0, 0]
    with pytest.raises(RequestError, match="promts"):
        run_job([runs[0]], {"promts": ["a"]})


def test_without_a_prompt_the_first_run_says_what_is_drawn(store: Store, runs: list[RunDir], tmp_path: Path) -> None:
    told = read_manifest(compare(Request(sources=(str(runs[0].path),)), store, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (row,) = told.rows
    assert (row.prompt, row.seed, row.steps, row.guidance, row.width) == ("a sks thing", 0, 1, 1.0, 32)


def test_a_folder_that_is_there_is_not_written_over(store: Store, runs: list[RunDir], folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(RequestError, match="is there already"):
        compare(Request(sources=(runs[0].id,)), store, folder)
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process that is killed is a fork")
def test_a_process_that_is_killed_before_the_end_leaves_no_comparison(
    store: Store, runs: list[RunDir], tmp_path: Path
) -> None:
    def draw() -> None:
        os.environ[VARIABLE] = "compare.written"
        compare(Request(sources=(runs[0].id,)), store, tmp_path / "out" / "compared")

    assert in_child(draw) == -signal.SIGKILL
    assert [path.name[:5] for path in (tmp_path / "out").iterdir()] == [".tmp-"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are a thing of POSIX")
@pytest.mark.parametrize("chosen", [slice(-1, None), pytest.param(slice(None), marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_a_file_of_any_kind_leaves_nothing(
    store: Store, runs: list[RunDir], tmp_path: Path, chosen: slice
) -> None:
    place = tmp_path / "out"

    def draw() -> None:
        torch.set_num_threads(1)
        compare(Request(sources=(f"{runs[0].id}@1",)), store, place / "compared")

    counted = Counter(map(kind_of, do_in_child(draw, place).written))
    assert len(counted) > 6  # pictures of both columns, grid, plot, page, manifest, and the exported file
    (place / "compared").rename(tmp_path / "whole")
    for kind, count in list(counted.items())[chosen]:
        told = do_in_child(draw, place, FullDisk(kind, count, lasting=True))
        assert told.category == "disk full", kind
        assert list(place.iterdir()) == [], kind
