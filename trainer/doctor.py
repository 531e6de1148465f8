"""What this computer has of what training needs, and the exact fix for what it lacks.

Facts are gathered first, torch's in a process of its own, since importing it takes seconds and can crash; the verdicts
on them are pure functions.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from pydantic import TypeAdapter

from trainer.devices import VISIBLE, Driver, read_driver
from trainer.disk import free_bytes
from trainer.home import VARIABLE, Home

Verdict = Literal["good", "note", "bad"]
TORCH_SECONDS = 180
LEAST_PYTHON = (3, 11)
NEEDED_DISK_GIB = 10  # a base model of the largest family, its caches and a few checkpoints
NEEDED_MEMORY_GIB = 12  # while a base model of the largest family is being loaded
NEEDED_CARD_MIB = 8000
WINDOWS_INDEX = "https://download.pytorch.org/whl/cu130"  # PyPI's torch for Windows has no CUDA

PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__, "cuda_build": torch.version.cuda or "", "cuda_works": cuda,
    "architectures": torch.cuda.get_arch_list() if cuda else [],
    "mps_works": torch.backends.mps.is_available(),
}))
if cuda:
    torch.zeros(8, device="cuda").sum().item()
"""


@dataclass(frozen=True)
class Check:
    name: str
    verdict: Verdict
    value: str
    fix: str = ""


@dataclass(frozen=True)
class Torch:
    """What torch says of itself; `problem` if it could not be imported, or not use its card."""

    version: str = ""
    cuda_build: str = ""
    cuda_works: bool = False
    architectures: tuple[str, ...] = ()
    mps_works: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Folder:
    path: Path
    free_gib: float
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    platform: str
    python: tuple[int, int, int]
    torch: Torch
    driver: Driver
    visible: str | None
    memory_gib: float
    memory_free_gib: float
    folders: tuple[Folder, ...]


def examine(home: Home) -> list[Check]:
    return judge(gather(home))


def gather(home: Home) -> Facts:
    memory = psutil.virtual_memory()
    return Facts(
        platform=sys.platform,
        python=sys.version_info[:3],
        torch=ask_torch(),
        driver=read_driver(),
        visible=os.environ.get(VISIBLE),
        memory_gib=memory.total / 2**30,
        memory_free_gib=memory.available / 2**30,
        folders=tuple(look_at(path) for path in (home.path, Path(tempfile.gettempdir()))),
    )


def ask_torch(probe: str = PROBE) -> Torch:
    """What torch says in a process of its own."""
    command = [sys.executable, "-c", probe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Torch(problem=f"importing it took longer than {TORCH_SECONDS} seconds")
    said = done.stdout.splitlines()
    last_words = (done.stderr.strip().splitlines() or [f"it crashed with exit code {done.returncode}"])[-1]
    if not said:
        return Torch(problem=last_words)
    return TypeAdapter(Torch).validate_python(json.loads(said[0]) | {"problem": last_words if done.returncode else ""})


def look_at(path: Path) -> Folder:
    """Try to write to a folder, made if need be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return Folder(path, free_bytes(path) / 2**30, str(error))
    return Folder(path, free_bytes(path) / 2**30)


def judge(facts: Facts) -> list[Check]:
    """The verdicts, in the order in which to put things right."""
    return [
        judge_python(facts.python),
        judge_torch(facts.torch, bool(facts.driver.cards), facts.platform),
        *judge_cards(facts),
        judge_memory(facts.memory_gib, facts.memory_free_gib),
        *(judge_folder(folder) for folder in facts.folders),
    ]


def judge_python(version: tuple[int, int, int]) -> Check:
    value = f"{'.'.join(map(str, version))}, {platform.python_implementation()}"
    if version[:2] >= LEAST_PYTHON:
        return Check("Python", "good", value)
    return Check("Python", "bad", value, "Install Python 3.11 or newer, then run `python3 launch.py` with it.")


def judge_torch(torch: Torch, has_card: bool, system: str) -> Check:
    build = f"CUDA {torch.cuda_build}" if torch.cuda_build else "CPU only"
    value = f"{torch.version}, {build}"
    if not torch.version:
        return Check("torch", "bad", torch.problem, "Install again: `python3 launch.py`.")
    if torch.problem:
        fix = "Update the NVIDIA driver. If that does not help: `pip install --force-reinstall torch`."
        return Check("torch", "bad", f"{value}: {torch.problem}", fix)
    if has_card and not torch.cuda_build:
        index = f" --index-url {WINDOWS_INDEX}" if system == "win32" else ""
        fix = f"It cannot use the graphics card: `pip install --force-reinstall torch{index}`."
        return Check("torch", "bad", value, fix)
    return Check("torch", "good", value)


def judge_cards(facts: Facts) -> list[Check]:
    torch, driver = facts.torch, facts.driver
    if torch.mps_works:
        return [
            Check("card", "note", "Apple", "Training on it is not tested; the starter model trains on the processor.")
        ]
    if not driver.cards:
        fix = "Without one only the starter model trains in reasonable time. If there is one: install NVIDIA's driver."
        return [Check("card", "note", f"none ({driver.problem})", fix)]
    if facts.visible is not None and facts.visible.strip() in ("", "-1"):
        return [
            Check("card", "bad", f"hidden by {VISIBLE}={facts.visible!r}", f"Remove {VISIBLE} from the environment.")
        ]
    if torch.cuda_build and not torch.cuda_works:
        fix = f"The driver is too old for CUDA {torch.cuda_build}: install a newer one from nvidia.com/drivers."
        return [Check("driver", "bad", driver.version, fix)]
    return [Check("driver", "good", driver.version), *_judge_each_card(torch, driver)]


def _judge_each_card(torch: Torch, driver: Driver) -> list[Check]:
    checks: list[Check] = []
    for card in driver.cards:
        value = (
            f"{card.name}, {card.total_mib:,} MiB of which {card.total_mib - card.used_mib:,} free, {card.celsius} °C"
        )
        architecture = f"sm_{card.compute_capability.replace('.', '')}"
        if torch.architectures and not _supports(torch.architectures, architecture):
            fix = f"torch {torch.version} has no code for it ({architecture}): `pip install --upgrade torch`."
            checks.append(Check("card", "bad", value, fix))
        elif card.total_mib - card.used_mib < NEEDED_CARD_MIB:
            fix = "Close programs that use it; small settings are needed: `dora-studio plan` tells what fits."
            checks.append(Check("card", "note", value, fix))
        else:
            checks.append(Check("card", "good", value))
    return checks


def _supports(architectures: tuple[str, ...], wanted: str) -> bool:
    """Code for a card runs on later cards of the same major version."""
    number = int(wanted.removeprefix("sm_"))
    built = [int(name.removeprefix("sm_")) for name in architectures if name.removeprefix("sm_").isdigit()]
    return any(one // 10 == number // 10 and one <= number for one in built)


def judge_memory(total_gib: float, free_gib: float) -> Check:
    value = f"{total_gib:.1f} GiB of which {free_gib:.1f} free"
    if free_gib >= NEEDED_MEMORY_GIB:
        return Check("memory", "good", value)
    fix = f"Loading SDXL takes up to {NEEDED_MEMORY_GIB} GiB: close other programs, or allow a larger page file (swap)."
    return Check("memory", "note", value, fix)


def judge_folder(folder: Folder) -> Check:
    value = f"{folder.path}, {folder.free_gib:.1f} GiB free"
    if folder.problem:
        fix = f"It cannot be written to: give yourself the right to, or set {VARIABLE} to a folder of yours."
        return Check("folder", "bad", f"{value}: {folder.problem}", fix)
    if folder.free_gib < NEEDED_DISK_GIB:
        fix = f"Free some space, or set {VARIABLE} to a folder on a disk with {NEEDED_DISK_GIB} GiB free."
        return Check("folder", "note", value, fix)
    return Check("folder", "good", value)
