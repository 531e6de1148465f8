"""Promises about the repository as a whole: what imports what, what is loaded when, what is pinned."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from grimp import build_graph
from importlinter.cli import lint_imports

from dora_core.version import __version__
from trainer.cli import COMMANDS

ROOT = Path(__file__).parent.parent
TORCH_FREE = {  # what the page, the plan and the queue are made of
    "dora_core": "families header keymap layouts metadata spec version",
    "trainer": "adapter_specs base_files cli config config_errors config_io data.buckets data.captions data.report "
    "data.scan devices disk doctor events failures home lateness memory_advice plan presets processes queue run_dir "
    "speed status store twins vram worker",
    "app": "",
}
HEAVY = {"torch", "numpy", "diffusers", "transformers", "accelerate", "gradio"}


@pytest.mark.parametrize("package", TORCH_FREE)
def test_importing_the_torch_free_part_in_a_fresh_process_loads_nothing_heavy(package: str) -> None:
    modules = [package, *(f"{package}.{name}" for name in TORCH_FREE[package].split())]
    loaded = set(python("-c", f"import sys, {', '.join(modules)}; print(*sys.modules)").stdout.split())
    assert loaded.issuperset(modules)
    assert loaded.isdisjoint(HEAVY)


def test_no_module_loads_something_heavy_that_it_does_not_import_itself() -> None:
    """Whatever the import graph knows as free of torch is so in a fresh process, other libraries' imports included."""
    graph = build_graph(
        "trainer", "dora_core", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    heavy = HEAVY & graph.modules
    free = graph.modules - heavy - set[str]().union(*map(graph.find_downstream_modules, heavy))
    modules = sorted(name for name in free if name.partition(".")[0] in ("trainer", "dora_core"))
    assert set(modules) >= {f"{package}.{name}" for package, names in TORCH_FREE.items() for name in names.split()}
    loaded = set(python("-c", f"import sys, {', '.join(modules)}; print(*sys.modules)").stdout.split())
    assert loaded.isdisjoint(HEAVY)


def test_help_of_the_command_line_loads_nothing_heavy_and_names_every_command() -> None:
    shown = python("-X", "importtime", "-m", "trainer.cli", "--help")
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "typer" in loaded
    assert HEAVY.isdisjoint(loaded)
    assert all(f" {command.name} " in shown.stdout for command in COMMANDS)


def test_version_names_what_is_installed() -> None:
    printed = python("-m", "trainer.cli", "version").stdout
    assert printed.startswith(f"dora-studio {__version__}, torch {metadata.version('torch')}, Python 3.")


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_explains_itself_under_its_own_name(name: str) -> None:
    assert f"Usage: dora-studio {name}" in python("-m", "trainer.cli", name, "--help").stdout


def test_the_import_contracts_hold() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("dora_core/layers.py", "import trainer.train", "Imports run one way"),
        ("trainer/train.py", "import app.page", "Imports run one way"),
        ("dora_core/layers.py", "import numpy", "dora_core needs torch, safetensors"),
        ("dora_core/layers.py", "import pydantic", "dora_core needs torch, safetensors"),
        ("app/page.py", "import torch", "The page never reaches torch"),
        ("app/page.py", "import trainer.train", "The page never reaches torch"),  # which goes on to dora_core.layers
    ],
)
def test_an_import_the_wrong_way_breaks_its_contract(tmp_path: Path, file: str, line: str, contract: str) -> None:
    sources = {"dora_core/layers.py": "import torch", "trainer/train.py": "import dora_core.layers", "app/page.py": ""}
    for name, source in (sources | {file: f"{sources[file]}\n{line}"}).items():
        path = tmp_path / name
        path.parent.mkdir()
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    linted = python("-c", "from importlinter.cli import *; lint_imports_command()", "--no-cache", cwd=tmp_path, code=1)
    broken = [row for row in linted.stdout.splitlines() if row.endswith("BROKEN")]
    assert len(broken) == 1
    assert broken[0].startswith(contract)


@pytest.mark.parametrize(
    ("under_ci", "has_browser", "outcome"),
    [("", False, "1 skipped"), ("true", False, "1 error"), ("true", True, "1 passed")],
)
def test_without_a_browser_its_tests_are_skipped_but_fail_under_ci(
    tmp_path: Path, under_ci: str, has_browser: bool, outcome: str
) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_page.py").write_text(
        f"def test_page(chromium_path): assert chromium_path == {str(tmp_path / 'chromium')!r}"
    )
    if has_browser:
        (tmp_path / "chromium").touch(mode=0o755)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    environment = os.environ | {"PATH": str(tmp_path), "CI": under_ci}
    assert (
        outcome
        in subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout
    )


def test_constraints_are_exact_versions_from_nowhere_in_particular() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.bc]*( ; [^/@]+)?", pin)] == []


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="only launch.py's own environment must be as pinned")
def test_every_installed_package_is_pinned_at_its_version() -> None:
    text = (ROOT / "constraints.txt").read_text()
    installed = {canonical(d.name): d.version.partition("+")[0] for d in metadata.distributions()}
    ours = installed.keys() - {"dora-studio", "pip"}
    assert [name for name in sorted(ours) if not re.search(rf"(?m)^{name}=={re.escape(installed[name])}\b", text)] == []


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def python(*arguments: str, cwd: Path = ROOT, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done
