"""Work in a forked child, which may be killed as by kill -9."""

from __future__ import annotations

import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch

from trainer.faults import VARIABLE
from trainer.run_dir import RunDir
from trainer.session import run_training

POLL_SECONDS = 0.0003


def in_child(action: Callable[[], object], kill_when: Callable[[], bool] | None = None) -> int:
    """Do it in a child with one thread, whose output is lost; kill it when `kill_when` says so. Its exit code."""
    child = _fork(action)
    while kill_when is not None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if kill_when():
            os.kill(child, signal.SIGKILL)  # a child that has ended waits to be asked for its code: it is still ours
            break
        time.sleep(POLL_SECONDS)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_children(actions: Sequence[Callable[[], object]]) -> list[int]:
    """Do all at the same time, each in a child of its own that a launcher has told its number; their exit codes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launched = {"WORLD_SIZE": len(actions), "LOCAL_WORLD_SIZE": len(actions), "OMP_NUM_THREADS": 1}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def launch(rank: int, action: Callable[[], object]) -> None:
        names = launched | place | {"RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in names.items()})
        action()

    children = [_fork(partial(launch, rank, action)) for rank, action in enumerate(actions)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def train_in_child(run: RunDir, crash_at: str = "", kill_when: Callable[[], bool] | None = None) -> int:
    """Train in a child that a crash point, or `kill_when`, may kill; its exit code, -9 when it was."""

    def train() -> None:
        os.environ[VARIABLE] = crash_at
        run_training(run)

    return in_child(train, kill_when)


def final_adapter(run: RunDir, step: int) -> bytes:
    return (run.checkpoints_dir / f"step-{step:06d}" / "adapter.safetensors").read_bytes()


def _fork(action: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside torch's threads: the child uses none
        child = os.fork()
    if child == 0:
        _do_and_exit(action)
    return child


def _do_and_exit(action: Callable[[], object]) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        sink = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(sink, stream)
        action()
        code = 0
    finally:
        os._exit(code)
