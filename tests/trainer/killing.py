"""Runs that are killed in a forked child, as by kill -9."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.faults import VARIABLE
from trainer.run_dir import RunDir
from trainer.session import run_training


def train_in_child(run: RunDir, crash_at: str = "", kill_after_seconds: float | None = None) -> int:
    """Train in a child that a crash point, or a signal after a while, may kill; its exit code, -9 when it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside torch's threads: the child uses none
        child = os.fork()
    if child == 0:
        _train_and_exit(run, crash_at)
    if kill_after_seconds is not None:
        _kill_after(child, kill_after_seconds)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def final_adapter(run: RunDir, step: int) -> bytes:
    return (run.checkpoints_dir / f"step-{step:06d}" / "adapter.safetensors").read_bytes()


def _train_and_exit(run: RunDir, crash_at: str) -> None:
    code = 1
    try:
        os.environ[VARIABLE] = crash_at
        torch.set_num_threads(1)
        _silently(Path(os.devnull), lambda: run_training(run))
        code = 0
    finally:
        os._exit(code)


def _silently(where: Path, action: Callable[[], object]) -> None:
    sink = os.open(where, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    action()


def _kill_after(child: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)  # a child that has ended waits to be asked for its code: nobody else can be hit
