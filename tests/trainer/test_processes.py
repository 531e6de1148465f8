"""A process is known by its pid and its start; a start differs by platform; a kill leaves no child behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from trainer.processes import Identity, detached_flags, kill_tree, spawn, spawn_attempts

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def sleeper() -> Generator[subprocess.Popen[bytes], None, None]:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    yield process
    for child in psutil.Process(process.pid).children() if process.poll() is None else []:
        child.kill()
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_stranger_with_the_pid_of_a_dead_process_is_never_killed(sleeper: subprocess.Popen[bytes]) -> None:
    stale = replace(Identity.of(sleeper.pid), create_time=Identity.of(sleeper.pid).create_time - 3600)
    assert stale.process() is None
    assert kill_tree(stale) is False
    assert sleeper.poll() is None


def test_a_process_of_another_machine_is_never_killed(sleeper: subprocess.Popen[bytes]) -> None:
    assert kill_tree(replace(Identity.of(sleeper.pid), host="elsewhere")) is False
    assert sleeper.poll() is None


def test_a_kill_takes_the_children_too(sleeper: subprocess.Popen[bytes]) -> None:
    assert sleeper.stdout is not None
    child = psutil.Process(int(sleeper.stdout.readline()))
    identity = Identity.of(sleeper.pid)
    assert kill_tree(identity) is True
    assert identity.process() is None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert kill_tree(identity) is False


def test_a_process_that_nobody_has_waited_for_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    assert identity.process() is not None
    psutil.Process(sleeper.pid).kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert identity.process() is None


def test_on_linux_a_detached_process_gets_a_session_of_its_own() -> None:
    assert detached_flags("linux") == {"start_new_session": True, "creationflags": 0}
    assert len(spawn_attempts("linux")) == 1


def test_on_windows_it_gets_a_group_without_a_console_outside_the_job_object_if_allowed() -> None:
    # The values of the flags: https://learn.microsoft.com/windows/win32/procthread/process-creation-flags
    first, second = spawn_attempts("win32")
    assert first == {"start_new_session": False, "creationflags": 0x00000200 | 0x08000000 | 0x01000000}
    assert second == {"start_new_session": False, "creationflags": 0x00000200 | 0x08000000}


def test_files_in_the_working_directory_are_not_taken_for_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    assert spawn([sys.executable, "-m", "trainer.worker", "--help"], tmp_path / "log.txt", {}).wait() == 0
    assert "Usage" in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="sessions are a thing of POSIX")
def test_a_spawned_process_outlives_its_parent_s_session_and_appends_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.txt"
    print_session = "import os; print('ä', os.getsid(0) == os.getpid(), os.environ['OF_THE_TEST'])"
    for _ in range(2):
        assert spawn([sys.executable, "-c", print_session], log, {"OF_THE_TEST": "yes"}).wait() == 0
    assert log.read_text(encoding="utf-8").splitlines() == ["ä True yes"] * 2
