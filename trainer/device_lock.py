"""One training at a time on each device of a computer, whichever home it belongs to and whoever started it.

The locks lie in a folder of the user's, outside every home: two homes, or a command beside a worker, share the card.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from dora_core.atomic import atomic_write
from trainer import locks
from trainer.failures import ExplainedError

FOLDER_VARIABLE = "DORA_STUDIO_LOCKS"
SHARE_VARIABLE = "DORA_STUDIO_SHARE_CPU"  # 1: trainings on the processor do not wait for each other
POLL_SECONDS = 0.5


class Holder(BaseModel):
    """Who has a device. Written beside the lock, which says whether it still does: Windows lets nobody read that."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: Path
    pid: int

    @property
    def sentence(self) -> str:
        return f"the run {self.run.name} (process {self.pid})"


class DeviceBusyError(ExplainedError):
    """Another run trains on the device."""

    category = "busy"

    def __init__(self, device: str, holder: Holder | None) -> None:
        super().__init__(
            f"{named(device)} is in use by {told(holder)}.",
            "Leave out --no-wait to wait for it, or stop that run; then resume this one.",
        )


@contextmanager
def hold_device(device: str, run: Path, on_busy: Callable[[Holder | None], None]) -> Generator[None, None, None]:
    """Have the device for the block, and wait until it is free; `device`: cpu, mps or the card's own id.

    While it waits `on_busy` is called about twice a second with who has it; what that raises ends the waiting.
    """
    is_shared = device == "cpu" and os.environ.get(SHARE_VARIABLE) == "1"
    with ExitStack() as held:
        if not is_shared:
            lock = lock_folder() / f"{socket.gethostname()}-{re.sub(r'[^A-Za-z0-9-]', '-', device)}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            _wait_for(lock, held, on_busy)
            with atomic_write(lock.with_suffix(".json")) as file:
                file.write(Holder(run=run, pid=os.getpid()).model_dump_json().encode())
        yield


def lock_folder() -> Path:
    chosen = os.environ.get(FOLDER_VARIABLE) or platformdirs.user_state_path("dora-studio", appauthor=False) / "devices"
    return Path(chosen)


def named(device: str) -> str:
    return "The processor" if device == "cpu" else f"The graphics card {device}"


def told(holder: Holder | None) -> str:
    return holder.sentence if holder else "another run"


def _wait_for(lock: Path, held: ExitStack, on_busy: Callable[[Holder | None], None]) -> None:
    while True:
        try:
            held.enter_context(locks.hold(lock, timeout_seconds=POLL_SECONDS))
            return
        except locks.LockHeldError:
            on_busy(_read_holder(lock.with_suffix(".json")))


def _read_holder(path: Path) -> Holder | None:
    try:
        return Holder.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # the very moment in which it changes hands
        return None
