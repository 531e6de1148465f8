"""The doctor's verdicts, on the facts of computers that we do not have; and on this one, as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.devices import Card, Driver
from trainer.doctor import Check, Facts, Folder, Torch, ask_torch, judge, look_at

ROOT = Path(__file__).parents[2]
CARD = Card("GPU-1", "NVIDIA GeForce RTX 4090", 24564, 800, 40, "8.9")
TORCH = Torch("2.13.0+cu130", "13.0", True, ("sm_80", "sm_86", "sm_90", "sm_120"))
WELL = Facts(
    platform="linux",
    python=(3, 12, 4),
    torch=TORCH,
    driver=Driver("580.1", (CARD,)),
    visible=None,
    memory_gib=64,
    memory_free_gib=50,
    folders=(Folder(Path("/home/x"), 300),),
)


def only_complaint(facts: Facts) -> Check:
    complaints = [check for check in judge(facts) if check.verdict != "good"]
    assert len(complaints) == 1, complaints
    return complaints[0]


def test_a_computer_that_is_well_has_no_fixes() -> None:
    checks = judge(WELL)
    assert [check.name for check in checks] == ["Python", "torch", "driver", "card", "memory", "folder"]
    assert all(check.verdict == "good" and not check.fix for check in checks)


@pytest.mark.parametrize(
    ("facts", "verdict", "name", "fix"),
    [
        (replace(WELL, python=(3, 10, 9)), "bad", "Python", "3.11"),
        (replace(WELL, torch=Torch(problem="No module named torch")), "bad", "torch", "launch.py"),
        (replace(WELL, torch=replace(TORCH, problem="CUDA error: unknown error")), "bad", "torch", "driver"),
        (replace(WELL, torch=Torch("2.13.0+cpu")), "bad", "torch", "pip install --force-reinstall torch`"),
        (replace(WELL, torch=Torch("2.13.0+cpu"), platform="win32"), "bad", "torch", "whl/cu130"),
        (replace(WELL, torch=replace(TORCH, cuda_works=False, architectures=())), "bad", "driver", "newer one"),
        (replace(WELL, visible=""), "bad", "card", "Remove CUDA_VISIBLE_DEVICES"),
        (replace(WELL, visible="-1"), "bad", "card", "Remove CUDA_VISIBLE_DEVICES"),
        (replace(WELL, driver=Driver("1", (replace(CARD, compute_capability="7.0"),))), "bad", "card", "sm_70"),
        (replace(WELL, driver=Driver("1", (replace(CARD, used_mib=20000),))), "note", "card", "Close programs"),
        (replace(WELL, driver=Driver(problem="NVML Shared Library Not Found")), "note", "card", "install NVIDIA"),
        (replace(WELL, memory_free_gib=5), "note", "memory", "page file"),
        (replace(WELL, folders=(Folder(Path("/x"), 2),)), "note", "folder", "10 GiB"),
        (replace(WELL, folders=(Folder(Path("/x"), 300, "Permission denied"),)), "bad", "folder", "DORA_STUDIO_HOME"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_alone_and_with_its_fix(facts: Facts, verdict: str, name: str, fix: str) -> None:
    complaint = only_complaint(facts)
    assert (complaint.verdict, complaint.name) == (verdict, name)
    assert fix in complaint.fix


def test_code_for_a_card_runs_on_later_ones_of_its_generation_only() -> None:
    ada = only_card_verdict("8.9")
    assert (ada, only_card_verdict("9.0"), only_card_verdict("12.0")) == ("good", "good", "good")
    assert (only_card_verdict("7.5"), only_card_verdict("10.0"), only_card_verdict("6.1")) == ("bad", "bad", "bad")


def only_card_verdict(capability: str) -> str:
    facts = replace(WELL, driver=Driver("1", (replace(CARD, compute_capability=capability),)))
    return next(check.verdict for check in judge(facts) if check.name == "card")


def test_a_torch_that_crashes_or_is_not_there_is_a_problem_and_no_exception() -> None:
    assert "no_such_module" in ask_torch("import no_such_module").problem
    assert "exit code 3" in ask_torch("import os; os._exit(3)").problem
    after = "print('{\"version\": \"2.0\"}', flush=True); raise RuntimeError('CUDA error')"
    assert ask_torch(after) == Torch("2.0", problem="RuntimeError: CUDA error")


def test_a_folder_is_written_to_before_it_is_called_writable(tmp_path: Path) -> None:
    assert look_at(tmp_path / "new" / "folder").problem == ""
    (tmp_path / "file").touch()
    assert "file" in look_at(tmp_path / "file" / "folder").problem


def test_the_command_looks_at_this_computer_and_loads_no_torch_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "trainer.cli", "doctor", "--home", str(tmp_path)]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    for name in ("Python", "torch", "card", "memory", str(tmp_path)):
        assert name in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "trainer.doctor" in loaded
    assert "torch" not in loaded
