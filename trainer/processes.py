"""Processes: started so that they outlive their parent, known by more than their pid, killed with their children."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import psutil

# Flags of CreateProcess; the subprocess module has them on Windows only.
CREATE_NEW_PROCESS_GROUP = 0x00000200
CREATE_NO_WINDOW = 0x08000000
CREATE_BREAKAWAY_FROM_JOB = 0x01000000
PACKAGES = Path(__file__).parents[1]
CLOCK_SECONDS = 1.0  # create times are rounded, and shift a little when the clock is set


@dataclass(frozen=True)
class Identity:
    """A process and no other: pids are used again, a pid together with its start is not."""

    pid: int
    create_time: float
    host: str

    @staticmethod
    def of(pid: int | None = None) -> Identity:
        """Of a process of this machine, by default this one."""
        process = psutil.Process(pid)
        return Identity(process.pid, process.create_time(), socket.gethostname())

    def process(self) -> psutil.Process | None:
        """The process if it is alive on this machine, and not a stranger that got its pid."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.create_time) < CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return None
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None


def kill_tree(identity: Identity, timeout_seconds: float = 10) -> bool:
    """Kill the process and all its descendants at once. False when there is no such process any more."""
    if (root := identity.process()) is None:
        return False
    family = [*root.children(recursive=True), root]
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=timeout_seconds)
    return True


class SpawnFlags(TypedDict):
    """Arguments of Popen that differ by platform."""

    start_new_session: bool
    creationflags: int


def detached_flags(platform: str, breakaway: bool = True) -> SpawnFlags:
    """A process that lives on when its parent or the parent's terminal goes.

    Windows: a group of its own keeps Ctrl-C away, without a console window closing one kills nothing, and outside the
    job object of its terminal or service (where leaving is allowed) it does not die with that.
    """
    if platform != "win32":
        return SpawnFlags(start_new_session=True, creationflags=0)
    flags = CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW | (CREATE_BREAKAWAY_FROM_JOB if breakaway else 0)
    return SpawnFlags(start_new_session=False, creationflags=flags)


def spawn_attempts(platform: str) -> tuple[SpawnFlags, ...]:
    """The flags to try in turn: a job object of Windows may forbid to leave it, and then the start is refused."""
    if platform != "win32":
        return (detached_flags(platform),)
    return detached_flags(platform), detached_flags(platform, breakaway=False)


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a detached process whose output is appended to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    first, *others = spawn_attempts(sys.platform)
    with open(log, "ab") as output:
        try:
            return _popen(command, output.fileno(), environment, first)
        except PermissionError:
            if not others:
                raise
            return _popen(command, output.fileno(), environment, others[0])


def _popen(
    command: Sequence[str], output: int, environment: Mapping[str, str], flags: SpawnFlags
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # python -m looks for modules in the working directory first: a queue.py there would be taken for Python's own.
        cwd=PACKAGES,
        # Python of Windows would write, and read, text in the code page of the country.
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **environment},
        **flags,
    )
