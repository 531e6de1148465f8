"""The launcher: what it decides for every system, and how it really sets up a small project that stands in for ours."""

from __future__ import annotations

import ast
import errno
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launch
from launch import Setup, System, Work

LINUX = System("linux", "x86_64", (3, 11), has_venv=True)
WINDOWS = System("win32", "AMD64", (3, 12), has_venv=True)
MAC = System("darwin", "arm64", (3, 14), has_venv=True)

# A project as launch.py expects it, with nothing to download. Its build waits for as long as a file `hold` is there.
PROJECT = {
    "constraints.txt": "",
    "pyproject.toml": """
        [build-system]
        requires = []
        build-backend = "backend"
        backend-path = ["."]
        """.replace("        ", ""),
    "backend.py": """
import time, zipfile
from pathlib import Path

def build_editable(folder, settings=None, metadata=None):
    with open("builds.log", "a") as log:
        log.write("built\\n")
    while Path("hold").exists():
        time.sleep(0.05)
    info = "dora_studio-0.dist-info/"
    name = "dora_studio-0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, name), "w") as wheel:
        wheel.writestr("dora_studio.pth", str(Path.cwd()))
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: dora-studio\\nVersion: 0\\n")
        wheel.writestr(info + "RECORD", "")
    return name
""",
    "trainer/__init__.py": "",
    "trainer/cli.py": "import json, os, sys; print(json.dumps([os.getcwd(), *sys.argv[1:]])); sys.exit(7)",
    # `python -m ruff` and so on find these here.
    "ruff.py": "import sys; print('ruff', *sys.argv[1:]); sys.exit(sys.argv[1] == 'check')",
    "pyright.py": "print('pyright')",
    "pytest.py": "import os, sys; print('pytest in', os.getcwd(), *sys.argv[1:])",
}


@pytest.mark.parametrize("system", [LINUX, WINDOWS, MAC])
def test_where_everything_is_there_nothing_is_refused(system: System) -> None:
    assert launch.refusal(system) is None


@pytest.mark.parametrize(
    ("system", "says"),
    [
        (LINUX._replace(python=(3, 6)), "Python 3.6 is too old: install one from 3.11 to 3.14"),
        (LINUX._replace(python=(3, 10), has_venv=False), "Python 3.10 is too old"),
        (WINDOWS._replace(python=(3, 15)), "Python 3.15 is too new: install one from 3.11 to 3.14"),
        (MAC._replace(machine="x86_64"), "PyTorch is not made for darwin on x86_64: use"),
        (WINDOWS._replace(machine="x86"), "PyTorch is not made for win32 on x86: use"),
        (System("freebsd14", "amd64", (3, 12), has_venv=True), "PyTorch is not made for freebsd14"),
        (LINUX._replace(has_venv=False), "install it (sudo apt install python3.11-venv)"),
        (WINDOWS._replace(has_venv=False), "install it (with Python from python.org)"),
    ],
)
def test_what_stands_in_the_way_is_said_in_one_sentence_with_the_way_out(system: System, says: str) -> None:
    reason = launch.refusal(system)
    assert reason is not None
    assert says in reason
    assert is_one_sentence(reason)


@pytest.mark.parametrize(
    ("platform", "cards", "build"),
    [
        ("win32", "8.6, 581.57\n", "cu130"),
        ("win32", "12.0, 600.10\n7.5, 600.10\n", "cu130"),
        ("win32", "6.1, 581.57\n", "cu126"),  # a card older than CUDA 13 serves
        ("win32", "8.6, 566.36\n", "cu126"),  # a driver older than CUDA 13 needs
        ("win32", "8.6, 581.57\n6.1, 581.57\n", "cu126"),
        ("win32", "Field compute_cap is not a valid field to query.", "cu126"),  # a driver too old to be asked
        ("win32", None, None),
        ("linux", "8.6, 581.57\n", None),
        ("darwin", None, None),
    ],
)
def test_only_windows_with_an_nvidia_card_takes_torch_from_pytorchs_own_index(
    platform: str, cards: str | None, build: str | None
) -> None:
    index = launch.torch_index(platform, cards)
    assert index == (build and f"https://download.pytorch.org/whl/{build}")


def test_pip_installs_this_folder_with_the_constraints_extras_and_index_asked_for() -> None:
    plain = launch.pip_command("py", frozenset(), None)
    assert plain[:4] == ["py", "-m", "pip", "install"]
    assert plain[-4:] == ["-c", "constraints.txt", "-e", "."]
    assert "--extra-index-url" not in plain
    full = launch.pip_command("py", frozenset(["dev", "bench"]), "https://example.org/whl")
    assert full[-1] == ".[bench,dev]"
    assert full[full.index("--extra-index-url") + 1] == "https://example.org/whl"


def test_the_python_of_a_virtual_environment_is_where_each_system_puts_it() -> None:
    assert launch.venv_python(Path("v"), "linux") == Path("v/bin/python")
    assert launch.venv_python(Path("v"), "darwin") == Path("v/bin/python")
    assert launch.venv_python(Path("v"), "win32") == Path("v/Scripts/python.exe")


@pytest.mark.parametrize(
    ("done", "runs", "work"),
    [
        (Setup("a", "f", frozenset("xyz")), True, Work.NOTHING),  # more than is asked for
        (Setup("a", "f", frozenset("x")), True, Work.PACKAGES),
        (Setup("a", "g", frozenset("xy")), True, Work.PACKAGES),
        (Setup("b", "f", frozenset("xy")), True, Work.EVERYTHING),
        (Setup("a", "f", frozenset("xy")), False, Work.EVERYTHING),
        (None, True, Work.EVERYTHING),
    ],
)
def test_no_more_is_done_than_what_changed_asks_for(done: Setup | None, runs: bool, work: Work) -> None:
    assert launch.work_left(done, Setup("a", "f", frozenset("xy")), runs) is work


def test_a_changed_file_python_machine_or_folder_changes_what_is_wanted(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            (tmp_path / folder / name).write_text(name)
    first = launch.wanted(tmp_path / "one", LINUX, frozenset())
    assert launch.wanted(tmp_path / "one", LINUX, frozenset()) == first
    others = [LINUX._replace(python=(3, 12)), LINUX._replace(machine="aarch64"), WINDOWS]
    assert first not in [launch.wanted(tmp_path / "one", system, frozenset()) for system in others]
    assert launch.wanted(tmp_path / "other", LINUX, frozenset()).files == first.files
    assert launch.wanted(tmp_path / "other", LINUX, frozenset()).interpreter != first.interpreter
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / "one" / name).write_text("changed")
        assert launch.wanted(tmp_path / "one", LINUX, frozenset()).files != first.files


# What pip printed without a network, behind a dead proxy, for a version that is not there, and on a full disk.
NO_NAMES = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'NameResolutionError("HTTPSConnection(host='pypi.org', port=443): Failed to resolve 'pypi.org' ([Errno -3] Temporary \
failure in name resolution)")': /simple/six/
ERROR: Could not find a version that satisfies the requirement six (from versions: none)
ERROR: No matching distribution found for six"""
NO_PROXY = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'ProxyError('Cannot connect to proxy.', NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at \
0x7fef08664690>: Failed to establish a new connection: [Errno 111] Connection refused'))': /simple/six/
ERROR: Could not find a version that satisfies the requirement six (from versions: none)
ERROR: No matching distribution found for six"""
NO_VERSION = """\
ERROR: Could not find a version that satisfies the requirement six==99 (from versions: 1.16.0, 1.17.0)
ERROR: No matching distribution found for six==99"""
FULL_DISK = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("printed", "says", "names"),
    [
        (NO_NAMES, "could not be downloaded: check the network or proxy", "Temporary failure in name resolution"),
        (NO_PROXY, "could not be downloaded: check the network or proxy", "Cannot connect to proxy."),
        (NO_VERSION, "could not be installed: mend", "No matching distribution found for six==99"),
        (FULL_DISK, "No space is left on the disk: free some gigabytes", "[Errno 28]"),
        ("", "could not be installed", "no reason was given"),
    ],
)
def test_why_an_install_failed_is_said_in_one_sentence_with_pips_own_line(printed: str, says: str, names: str) -> None:
    sentence = launch.explain_failure(printed.splitlines())
    assert says in sentence
    assert names in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space is left on the disk: free"),
        (OSError(errno.EACCES, "Permission denied"), "cannot be written: move it"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written: move it"),
    ],
)
def test_a_disk_that_cannot_be_written_is_said_in_one_sentence(error: OSError, says: str) -> None:
    reason = launch.explain_os_error(error)
    assert reason is not None
    assert says in reason
    assert is_one_sentence(reason)


def test_an_error_that_launch_does_not_know_is_not_explained_away() -> None:
    assert launch.explain_os_error(OSError(errno.EIO, "Input/output error")) is None


def test_the_launcher_is_written_in_the_python_that_it_may_meet() -> None:
    ast.parse(Path(launch.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.skipif(sys.platform == "win32", reason="makes a program of a script")
def test_a_python_that_is_gone_or_broken_is_noticed(tmp_path: Path) -> None:
    assert launch.can_run(Path(sys.executable))
    (tmp_path / "gone").symlink_to(tmp_path / "uninstalled")
    (tmp_path / "broken").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "broken").chmod(0o755)
    assert not launch.can_run(tmp_path / "gone")
    assert not launch.can_run(tmp_path / "broken")


def test_two_first_starts_at_once_set_up_one_environment_and_both_run(tmp_path: Path) -> None:
    project = make_project(tmp_path / "a folder")
    both = [start(project, "greet", "--to", "you there", cwd=tmp_path) for _ in range(2)]
    for process in both:
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 7, errors  # the command's own
        assert json.loads(printed.splitlines()[-1]) == [str(tmp_path), "greet", "--to", "you there"]
    once = builds(project)

    finish(start(project, "greet"), code=7)
    assert builds(project) == once  # nothing changed, nothing done

    (project / "constraints.txt").write_text("six==1.17.0\n")
    finish(start(project, "greet"), code=7)
    assert builds(project) == 2 * once
    finish(start(project, "bench"), code=7)  # which has an extra
    assert builds(project) == 3 * once
    finish(start(project, "test", "-k", "x"))
    assert builds(project) == 4 * once
    assert launch.read_stamp(project / ".venv" / "set-up.json") == launch.wanted(
        project, launch.this_system(), launch.EXTRAS["test"]
    )

    checked = finish(start(project, "test", cwd=tmp_path), code=1).splitlines()
    assert [line for line in checked if line.startswith("==")] == ["== format", "== lint", "== types", "== tests"]
    assert checked[-1] == f"pytest in {project}"  # where lint has failed, the rest runs all the same


@pytest.mark.skipif(
    sys.platform == "win32", reason="a killed process takes nothing with it, there or here, but is ended differently"
)
def test_an_install_that_was_killed_is_waited_for_noticed_and_done_anew(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    finish(start(project, "greet"), code=7)
    before = builds(project)
    (project / "constraints.txt").write_text("six==1.17.0\n")
    (project / "hold").touch()
    with start(project, "greet") as killed:
        while builds(project) == before:
            assert killed.poll() is None
            time.sleep(0.05)
        killed.kill()  # its pip lives on, and goes on writing into .venv

    second = start(project, "greet")
    assert second.stdout is not None
    assert second.stdout.readline() == "Another start is setting up .venv: waiting for it.\n"
    left_behind = project / ".venv" / "left-behind"
    left_behind.touch()
    (project / "hold").unlink()
    finish(second, code=7)
    assert not left_behind.exists()


def make_project(folder: Path) -> Path:
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(launch.__file__, folder)
    return folder


def start(project: Path, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, str(project / "launch.py"), *arguments]
    return subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return printed


def builds(project: Path) -> int:
    log = project / "builds.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def is_one_sentence(text: str) -> bool:
    return text.endswith((".", ").")) and ". " not in text and "\n" not in text
