"""The bench compares what computes the same, in turns, and reports what it measured. No test asserts a time."""

from __future__ import annotations

import json
from itertools import pairwise
from math import log2
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from typer.testing import CliRunner

from dora_core.spec import NormAxis
from trainer.bench.gain import CASES as GAIN_CASES
from trainer.bench.gain import PATHS, surviving_slope
from trainer.bench.gain import Path as Way
from trainer.bench.layers import QUICK_CASES, Case, layer_calls
from trainer.bench.quality import METHODS, Measure, Method, Scale, best_rate, try_rates
from trainer.bench.quality_cells import Score
from trainer.bench.report import timing_table
from trainer.bench.saved_bytes import FlashAttention, LiveBytes, saved_bytes
from trainer.bench.timing import Call, Sample, Timing, cpu_clock, interleave
from trainer.bench.unet import step_calls, tiny
from trainer.bench.variants import VARIANTS, Variant, adapt_with_ours, adapt_with_peft
from trainer.cli_bench import app
from trainer.likeness import HeldOut, likeness

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", QUICK_CASES, ids=lambda case: case.title)
def test_all_variants_of_a_layer_compute_the_same_from_the_same_numbers(case: Case) -> None:
    calls = layer_calls(case, CPU, torch.float32, 3, with_compiled=False)
    results: dict[str, Any] = {name: call() for name, call in calls.items()}
    same = {
        "PEFT LoRA": "LoRA",
        "LyCORIS LoRA": "LoRA",
        "PEFT DoRA output": "DoRA output",
        "DoRA output, fresh norm": "DoRA output",
        "DoRA input, fresh norm": "DoRA input",
    }
    for name, reference in same.items():
        assert differences(results[name], results[reference]) < 2e-6  # output, then all gradients
    for axis in ("output", "input"):  # LyCORIS' gradients of the factors go through the norm, the others do not
        assert differences(results[f"LyCORIS DoRA {axis}"][:2], results[f"DoRA {axis}"][:2]) < 2e-6
    distinct = [results[name][0] for name in ("base, frozen", "LoRA", "DoRA output", "DoRA input")]
    assert all(difference(a, b) > 1e-3 for a in distinct for b in distinct if a is not b)


def test_all_variants_of_a_unet_start_at_the_same_loss_and_learn() -> None:
    losses = {
        name: [float(call()) for _ in range(3)]  # pyright: ignore[reportArgumentType]
        for name, call in step_calls(tiny(), CPU, torch.float32, with_compiled=False).items()
    }
    assert len(losses) == len(VARIANTS) - 1
    for kind, count in {"LoRA": 3, "DoRA output": 3, "DoRA input": 2}.items():
        first = [loss[0] for name, loss in losses.items() if name.endswith(kind)]
        assert len(first) == count
        assert first == pytest.approx([first[0]] * count, rel=1e-6)
    assert all(loss[2] < loss[1] < loss[0] for loss in losses.values())


def test_calls_are_taken_in_turns_in_changing_order_and_warming_up_does_not_count() -> None:
    taken: list[str] = []
    calls: dict[str, Call] = {name: lambda name=name: taken.append(name) for name in "abcd"}

    def clock(call: Call) -> Sample:
        call()
        return Sample(len(taken), -len(taken))

    timings = interleave(calls, 10, clock, warmup=2)
    turns = [taken[start : start + 4] for start in range(0, 48, 4)]
    assert all(sorted(turn) == list("abcd") for turn in turns)
    assert any(first != second for first, second in pairwise(turns))
    for name, timing in timings.items():
        places = [4 * number + turn.index(name) + 1 for number, turn in enumerate(turns)][2:]
        assert timing == Timing(tuple(Sample(place, -place) for place in places))


def test_time_that_passes_without_work_is_not_busy_time() -> None:
    sample = cpu_clock(lambda: sleep(0.05))
    assert sample.busy_ms < sample.wall_ms


def test_a_table_holds_medians_minima_and_ratios_of_what_was_measured() -> None:
    reference = Timing((Sample(10, 4), Sample(20, 8), Sample(60, 5)))
    other = Timing((Sample(30, 6), Sample(50, 24), Sample(40, 10)))
    table = timing_table("layer", {"ours": reference, "theirs": other}, "ours")
    assert table.rows == (
        ("ours", 5, 4, 20, 10, 50, 1, 1, 1),
        ("theirs", 10, 6, 40, 30, 25, 2, 1.5, median([6 / 4, 24 / 8, 10 / 5])),
    )
    assert table.markdown().splitlines()[-1] == "| theirs | 10.0 | 6.0 | 40.0 | 30.0 | 25.00 | 2.00 | 1.50 | 2.00 |"


def test_the_bytes_kept_for_backward_are_those_that_the_graph_holds() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 5))
    x = torch.randn(100, 10)
    kept = (10 + 20 + 20) * 100 * 4  # the inputs of both layers and of the activation
    assert saved_bytes(model, lambda: model(x)) == kept
    assert saved_bytes(model, lambda: (model(x), model(x).detach())) == kept  # the second graph is gone
    with torch.no_grad():
        assert saved_bytes(model, lambda: model(x)) == 0


def test_attention_on_the_meta_device_keeps_operands_and_output_as_a_flash_kernel_does() -> None:
    q, k, v = torch.empty(3, 2, 4, 8, 16, device="meta", requires_grad=True)
    assert saved_bytes(nn.Identity(), lambda: scaled_dot_product_attention(q, k, v)) == 4 * q.nbytes


def test_the_peak_is_the_most_that_was_alive_at_once() -> None:
    x = torch.ones(100)
    with FlashAttention(), LiveBytes() as counted:
        y = x * 2  # 400 bytes
        z = (y + 1) * 3  # two more, of which one goes
        y.add_(1)
        z.view(10, 10)
    assert (counted.live, counted.peak) == (800, 1200)
    del y, z
    assert counted.live == 0


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.title)
@pytest.mark.parametrize("axis", ["output", "input"])
def test_our_gain_survives_bfloat16_and_the_measure_shows_where_one_does_not(axis: NormAxis, way: Way) -> None:
    case = GAIN_CASES[0]
    ours = Variant("ours", adapt_with_ours, axis)
    assert surviving_slope(case, ours, way, 0.0015, CPU) == pytest.approx(1, abs=0.1)
    if axis == "output":
        peft = Variant("PEFT", adapt_with_peft, axis)  # multiplies what has been rounded
        assert surviving_slope(case, peft, way, 0.0005, CPU) == pytest.approx(0, abs=0.1)
        assert surviving_slope(case, peft, way, 0.02, CPU) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("what", "tables"), [("layers", 5), ("unet", 1), ("memory", 2)])
def test_the_command_prints_and_writes_the_tables(what: str, tables: int, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    shown = CliRunner().invoke(app, [what, "--quick", "--rounds", "2", "--out", str(file)])
    assert shown.exit_code == 0, shown.output
    assert shown.output == file.with_suffix(".md").read_text(encoding="utf-8")
    report = json.loads(file.read_text(encoding="utf-8"))
    assert len(report["tables"]) == tables
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert report["machine"]["versions"]["torch"] == torch.__version__
    for table in report["tables"]:
        assert f"**{table['title']}**" in shown.output
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_the_bench_of_quality_needs_no_other_package_and_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("trainer.cli_bench.find_spec", lambda name: None)
    file = tmp_path / "figures.json"
    shown = CliRunner().invoke(app, ["quality", "--quick", "--out", str(file)])
    assert shown.exit_code == 0, shown.output
    tables = json.loads(file.read_text(encoding="utf-8"))["tables"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "home/bench/quality").iterdir()}
    assert len(kept) == 4 + 4  # a rate each, then a seed each
    assert [row[0] for row in tables[0]["rows"]] == [method.title for method in METHODS]
    floor, *trained, ceiling = tables[1]["rows"]
    assert float(floor[4]) < 0.5 < float(ceiling[4]) < 1
    assert [row[2] for row in trained] == ["60,928", "74,368", "77,952", "2,523,136"]
    assert CliRunner().invoke(app, ["quality", "--quick"]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_rate_beyond_the_best_is_tried_as_long_as_that_is_at_an_end() -> None:
    def lowest_at(best: float) -> Measure:
        return lambda method, rank, rate, seed, things: Score(0, 0, 0, loss=1 + abs(log2(rate / best)))

    method, scale = Method("x", "lora", first_rates=(1e-3, 2e-3, 4e-3)), Scale()
    assert [*try_rates(method, 4, scale, lowest_at(2e-3))] == [1e-3, 2e-3, 4e-3]
    assert [*try_rates(method, 4, scale, lowest_at(8e-3))] == [1e-3, 2e-3, 4e-3, 8e-3, 16e-3]
    assert [*try_rates(method, 4, scale, lowest_at(5e-4))] == [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]
    assert best_rate(try_rates(method, 4, scale, lowest_at(5e-4))) == 5e-4


def test_likeness_is_between_the_two_true_pictures_and_a_blur_is_no_likeness() -> None:
    """By hand: flat 0, 3D 3 and 4 in two places, so 5 apart; drawn (3, 0) is 3 from flat and 4 from 3D."""
    grey = {"flat": (0, 0), "3d": (3, 4), "drawn": (3, 0), "far": (-3, -4)}
    pictures = {name: Image.frombytes("L", (2, 1), bytes(v + 100 for v in values)) for name, values in grey.items()}

    def seen(picture: Image.Image) -> Tensor:
        return torch.tensor(list(picture.tobytes()), dtype=torch.float32)

    truth = HeldOut("", pictures["flat"], pictures["3d"])
    names = ("flat", "3d", "drawn", "far")
    found = likeness([pictures[name] for name in names], [truth] * 4, seen)
    assert [one.closeness for one in found] == pytest.approx([0, 1, 0.2, -1])
    assert [one.lean for one in found] == pytest.approx([-1, 1, -0.2, -1])
    assert [one.is_nearer for one in found] == [False, True, False, False]


def test_without_a_package_to_compare_with_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.cli_bench.find_spec", lambda name: None if name == "peft" else name)
    asked = CliRunner().invoke(app, ["unet", "--quick"])
    assert asked.exit_code == 1
    assert "there is no peft.\nInstall them: pip install 'dora-studio[bench]'" in asked.output


def differences(results: tuple[Tensor, ...], references: tuple[Tensor, ...]) -> float:
    return max(difference(a, b) for a, b in zip(results, references, strict=True))


def difference(result: Tensor, reference: Tensor) -> float:
    return float((result - reference.reshape(result.shape)).norm() / reference.norm())
