#!/usr/bin/env python3
"""Set up .venv beside this file, then run DoRA Studio in it. Needs nothing but Python.

Syntax and library are those of Python 3.6 up to the check of the version, so that an old Python can say it is too old.
"""

import contextlib
import enum
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, Dict, FrozenSet, Generator, List, NamedTuple, NoReturn, Optional, Tuple

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

USAGE = """\
python3 launch.py demo                   train, compare and export with the model that ships with the project
python3 launch.py ui                     open the page
python3 launch.py test [pytest options]  every check and every test that needs no GPU; with options: pytest alone
python3 launch.py COMMAND ...            any other command of dora-studio; COMMAND --help describes it"""

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "set-up.json"

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)  # those that the pinned torch is built for, here and in the next line
TORCH_BUILDS = {"linux": ("x86_64", "aarch64"), "win32": ("AMD64",), "darwin": ("arm64",)}
EXTRAS = {  # what a command needs besides the product: optional dependencies in pyproject.toml
    "test": frozenset(["dev", "bench", "starter", "tensorboard"]),
    "bench": frozenset(["bench"]),
}

NO_SPACE = "No space is left on the disk: free some gigabytes, then run the same command again ({})."
NO_NETWORK = "The packages could not be downloaded: check the network or proxy, then run the same command again ({})."
INSTALL_FAILED = "The packages could not be installed: mend what is said here, then run the same command again ({})."
FAILURES = (  # what a line that pip or venv print looks like, and the sentence to put it into
    (r"No space left on device|not enough space on the disk|Errno 28\b|WinError 112\b", NO_SPACE),
    (r"NewConnection|NameResolution|Connect(ion)?Timeout|Read(Timeout| timed out)|ProxyError|SSLError", NO_NETWORK),
    (r"^\s*(ERROR|\w*Error): ", INSTALL_FAILED),
)


class System(NamedTuple):
    """What the decisions below depend on, as plain values."""

    platform: str  # as sys.platform says it: linux, win32, darwin
    machine: str  # as platform.machine() says it: x86_64, AMD64, arm64
    python: Tuple[int, int]
    has_venv: bool  # the modules venv and ensurepip are there


class Setup(NamedTuple):
    """What a .venv is made from."""

    interpreter: str
    files: str  # hash of pyproject.toml and constraints.txt
    extras: FrozenSet[str]


class Work(enum.Enum):
    """What is left to do before a .venv is as wanted."""

    NOTHING = "nothing"
    PACKAGES = "install packages into the .venv that is there"
    EVERYTHING = "make .venv anew"


def main(arguments: List[str]) -> NoReturn:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    system = this_system()
    reason = refusal(system)
    if reason:
        sys.exit(reason)
    signal.signal(signal.SIGTERM, stop)
    try:
        ensure(wanted(ROOT, system, EXTRAS.get(arguments[0], frozenset())), system)
        run(arguments, str(venv_python(VENV, system.platform)))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        reason = explain_os_error(error)
        if reason is None:
            raise
        sys.exit(reason)


def stop(signal_number: int, frame: Optional[FrameType]) -> NoReturn:
    sys.exit(128 + signal_number)  # as an exception, on which subprocess ends what it runs


def this_system() -> System:
    has_venv = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    return System(sys.platform, platform.machine(), sys.version_info[:2], has_venv)


def refusal(system: System) -> Optional[str]:
    """Why nothing can be set up here and what to do about it, in one sentence; None when all is well."""
    found, oldest, newest = (f"{major}.{minor}" for major, minor in (system.python, OLDEST_PYTHON, NEWEST_PYTHON))
    if not OLDEST_PYTHON <= system.python <= NEWEST_PYTHON:
        age = "old" if system.python < OLDEST_PYTHON else "new"
        return f"Python {found} is too {age}: install one from {oldest} to {newest} and start launch.py with it."
    if system.machine not in TORCH_BUILDS.get(system.platform, ()):
        here = f"{system.platform} on {system.machine}"
        return f"PyTorch is not made for {here}: use 64-bit Linux or Windows, or a Mac with an Apple processor."
    if not system.has_venv:
        source = f"sudo apt install python{found}-venv" if system.platform == "linux" else "with Python from python.org"
        return f"This Python lacks its venv module: install it ({source}), then run the same command again."
    return None


def wanted(root: Path, system: System, extras: FrozenSet[str]) -> Setup:
    # A virtual environment holds absolute paths: a moved folder needs a new one.
    interpreter = f"Python {system.python} for {system.platform} on {system.machine} in {root}"
    files = b"\0".join((root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return Setup(interpreter, hashlib.sha256(files).hexdigest(), extras)


def ensure(want: Setup, system: System) -> None:
    """Bring .venv to what `want` says; quick when it is there already."""
    python = venv_python(VENV, system.platform)
    if work_left(read_stamp(STAMP), want, can_run(python)) is Work.NOTHING:
        return
    with only_one(ROOT / ".venv.lock"):
        done = read_stamp(STAMP)  # again: whoever held the lock may have done the work
        work = work_left(done, want, can_run(python))
        if work is Work.NOTHING:
            return
        if done and work is Work.PACKAGES:
            want = want._replace(extras=want.extras | done.extras)
        set_up(work, want, python, torch_index(system.platform, nvidia_cards()))


def work_left(done: Optional[Setup], want: Setup, runs: bool) -> Work:
    """`done` is None after an install that did not finish; nobody knows what is in such a .venv."""
    if done is None or done.interpreter != want.interpreter or not runs:
        return Work.EVERYTHING
    return Work.NOTHING if done.files == want.files and done.extras >= want.extras else Work.PACKAGES


def can_run(python: Path) -> bool:
    return python.exists() and subprocess.call([str(python), "-I", "-S", "-c", ""]) == 0


def venv_python(venv: Path, platform_name: str) -> Path:
    return venv / "Scripts" / "python.exe" if platform_name == "win32" else venv / "bin" / "python"


def read_stamp(path: Path) -> Optional[Setup]:
    try:
        interpreter, files, extras = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Setup(interpreter, files, frozenset(extras))


def write_stamp(path: Path, setup: Setup) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps([setup.interpreter, setup.files, sorted(setup.extras)]), encoding="utf-8")
    part.replace(path)


def set_up(work: Work, want: Setup, python: Path, index: Optional[str]) -> None:
    STAMP.unlink(missing_ok=True)  # first: from here to the end the set-up counts as unfinished
    print(f"Setting up {VENV}; the first time this takes minutes, since PyTorch is large.", flush=True)
    if work is Work.EVERYTHING:
        # Two steps, since venv keeps to itself why its second one, pip, failed.
        call([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], stdout=subprocess.PIPE)
        call([str(python), "-I", "-m", "ensurepip", "--default-pip"], stdout=subprocess.PIPE)
    call(pip_command(str(python), want.extras, index), stdout=None)  # where pip draws its progress
    write_stamp(STAMP, want)


def pip_command(python: str, extras: FrozenSet[str], index: Optional[str]) -> List[str]:
    project = f".[{','.join(sorted(extras))}]" if extras else "."
    options = ["--no-input", "--disable-pip-version-check", *(["--extra-index-url", index] if index else [])]
    return [python, "-m", "pip", "install", *options, "-c", "constraints.txt", "-e", project]


def torch_index(platform_name: str, cards: Optional[str]) -> Optional[str]:
    """Where pip finds the torch for these cards; None: in the package index, as everything else.

    There, torch is built for CUDA on Linux, but for the CPU on Windows. Builds for CUDA 13 need a card of compute
    capability 7.5 (GeForce 16 and later) and a driver from 580 on; those for CUDA 12.6 serve older ones.
    """
    if platform_name != "win32" or cards is None:
        return None
    known = re.findall(r"(\d+\.\d+), (\d+)", cards)
    is_recent = known and all(float(capability) >= 7.5 and int(driver) >= 580 for capability, driver in known)
    return "https://download.pytorch.org/whl/" + ("cu130" if is_recent else "cu126")


def nvidia_cards() -> Optional[str]:
    """Compute capability and driver of each card, a line each ("8.6, 581.57"); None where there is no NVIDIA driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=False).stdout


def call(command: List[str], stdout: Optional[int]) -> None:
    """Run a step of the set-up; a failure ends this program with one sentence below what the step printed."""
    stderr = subprocess.STDOUT if stdout else subprocess.PIPE
    step = subprocess.run(
        command, cwd=str(ROOT), stdout=stdout, stderr=stderr, text=True, errors="replace", check=False, close_fds=False
    )
    if step.returncode != 0:
        printed = step.stdout or step.stderr or ""
        sys.exit(f"{printed}\n{explain_failure(printed.splitlines())}")


def explain_failure(lines: List[str]) -> str:
    """One sentence on why a step of the set-up failed, from what it printed."""
    for pattern, sentence in FAILURES:
        telling = [line.strip() for line in lines if re.search(pattern, line)]
        if telling:
            return sentence.format(telling[-1])
    return INSTALL_FAILED.format("no reason was given")


def explain_os_error(error: OSError) -> Optional[str]:
    """One sentence on a disk that cannot be written; None for errors of any other kind."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NO_SPACE.format(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{ROOT} cannot be written: move it to a folder of yours, then run the same command again ({error})."
    return None


@contextlib.contextmanager
def only_one(path: Path) -> Generator[None, None, None]:
    """Hold the lock `path`. The system lets go of it when its holders end, however they end: it is never stale."""
    with path.open("a", encoding="utf-8") as handle:
        os.set_inheritable(handle.fileno(), True)  # a pip that outlives this process, killed, goes on holding it
        if not try_lock(handle):
            print("Another start is setting up .venv: waiting for it.", flush=True)
            while not try_lock(handle):
                time.sleep(0.5)
        yield


def try_lock(handle: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the first from POSIX, the second from Windows
        return False
    return True


def run(arguments: List[str], python: str) -> NoReturn:
    if arguments[0] != "test":
        hand_over([python, "-P", "-m", "trainer.cli", *arguments])  # -P: no module from the current folder gets in
    os.chdir(str(ROOT))
    if arguments[1:]:
        hand_over([python, "-m", "pytest", *arguments[1:]])
    failed: List[str] = []
    for name, check in checks(python).items():
        print("==", name, flush=True)
        if subprocess.call([python, "-m", *check]) != 0:
            failed.append(name)
    sys.exit("Failed: " + ", ".join(failed) if failed else 0)


def checks(python: str) -> Dict[str, List[str]]:
    """All that must pass before a change is good. The tests, which hold the import contracts too, end the output."""
    types = ["pyright", "--pythonpath", python]
    return {"format": ["ruff", "format", "--check"], "lint": ["ruff", "check"], "types": types, "tests": ["pytest"]}


def hand_over(command: List[str]) -> NoReturn:
    """Become `command`, as far as the shell can see."""
    if sys.platform != "win32":
        os.execv(command[0], command)
    process = subprocess.Popen(command)  # execv of Windows returns to the shell while the program still runs
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the program gets it too, and decides what it means
            sys.exit(process.wait())


if __name__ == "__main__":
    main(sys.argv[1:])
