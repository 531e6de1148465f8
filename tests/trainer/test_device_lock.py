"""One training at a time on a device, in whichever homes; who waits says for whom, and a crash frees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.device_lock import SHARE_VARIABLE, DeviceBusyError, Holder, hold_device, lock_folder
from trainer.events import Failed, Phase, read_events
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.store import Store

Settings = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from trainer.device_lock import hold_device
with hold_device(sys.argv[1], Path("/elsewhere/runs/red-panda"), lambda holder: None):
    print("held", flush=True)
    sys.stdin.readline()
"""


class NotFreeError(Exception):
    """Raised where a test does not want to wait."""


def refuse(holder: Holder | None) -> None:
    raise NotFreeError(holder)


def hold_elsewhere(device: str) -> subprocess.Popen[str]:
    """Another process that has the device until it is told to end."""
    command = [sys.executable, "-c", HOLD, device]
    other = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_another_process_has_to_wait_and_learns_who_has_it_until_that_is_killed(tmp_path: Path) -> None:
    other = hold_elsewhere("cpu")
    with pytest.raises(NotFreeError) as refused, hold_device("cpu", tmp_path, refuse):
        pass
    assert refused.value.args == (Holder(run=Path("/elsewhere/runs/red-panda"), pid=other.pid),)
    with hold_device("GPU-1/2", tmp_path, refuse):  # another device
        pass
    other.kill()
    other.communicate()
    with hold_device("cpu", tmp_path, refuse):
        pass


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path) -> None:
    other = hold_elsewhere("cpu")
    waited: list[Holder | None] = []

    def end_the_other(holder: Holder | None) -> None:
        waited.append(holder)
        other.communicate("\n")

    with hold_device("cpu", tmp_path, end_the_other):
        assert len(waited) == 1


def test_the_processor_is_shared_if_the_user_says_so_but_no_card_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARE_VARIABLE, "1")
    with hold_device("cpu", tmp_path, refuse), hold_device("cpu", tmp_path, refuse):
        pass
    with hold_device("a card", tmp_path, refuse), pytest.raises(NotFreeError), hold_device("a card", tmp_path, refuse):
        pass


def test_the_locks_lie_outside_every_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock_folder() == tmp_path / "devices"  # as the tests' own conftest.py wants it
    monkeypatch.delenv("DORA_STUDIO_LOCKS")
    monkeypatch.setenv("DORA_STUDIO_HOME", str(tmp_path / "home"))
    assert tmp_path not in lock_folder().parents


def test_a_device_is_named_by_what_it_is() -> None:
    assert Compute(torch.device("cpu"), torch.float32).name == "cpu"


@pytest.mark.gpu
def test_a_card_is_named_by_its_own_id_whatever_number_it_has() -> None:
    named = "import torch; from trainer.compute import choose_compute; print(choose_compute('auto').name)"
    seen = [
        subprocess.run(
            [sys.executable, "-c", named],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for environment in ({}, {"CUDA_VISIBLE_DEVICES": "0"})
    ]
    assert len(set(seen)) == 1
    assert len(seen[0].strip()) == 36


def test_a_training_waits_for_one_in_another_home_and_says_so(
    tmp_path: Path, tiny_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDir.create(tmp_path / "home" / "runs", tiny_settings(train__steps=1))
    other = hold_elsewhere("cpu")
    with pytest.raises(DeviceBusyError, match=f"red-panda \\(process {other.pid}\\)"):
        run_training(run, wait_for_device=False)
    failed = read_events(run.events_file)[0][-1]
    assert isinstance(failed, Failed)
    assert failed.category == "busy"

    timer = threading.Timer(2.0, other.communicate, args=("\n",))
    timer.start()
    assert run_training(run) == "finished"
    timer.join()
    said = f"The processor is in use by the run red-panda (process {other.pid})"
    assert capfd.readouterr().out.count(said) == 1
    waiting = [event for event in read_events(run.events_file)[0] if isinstance(event, Phase) and event.detail]
    assert [(event.name, said in event.detail) for event in waiting] == [("waiting", True)]


def test_a_stop_ends_the_waiting(tmp_path: Path, tiny_settings: Settings) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings())
    other = hold_elsewhere("cpu")
    timer = threading.Timer(1.0, run.request, args=("stop",))
    timer.start()
    assert run_training(run) == "stopped"
    timer.join()
    other.communicate("\n")
    assert read_events(run.events_file)[0][-1].kind == "stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_while_it_waits_leaves_cleanly(tmp_path: Path, tiny_settings: Settings) -> None:
    store = Store(Home(tmp_path / "home"))
    run = store.create(tiny_settings())
    other = hold_elsewhere("cpu")
    command = [sys.executable, "-m", "trainer.cli", "resume", str(run.path), "--home", str(store.home.path)]
    waiting = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert waiting.stdout is not None
    said = next(line for line in waiting.stdout if "in use" in line)
    assert f"process {other.pid}" in said
    waiting.send_signal(signal.SIGINT)
    rest = waiting.communicate(timeout=60)[0]
    assert "Traceback" not in rest
    assert f"stopped: {run.path}" in rest.replace("\n", " ")
    assert store.status(run).state == "stopped"
    other.communicate("\n")
