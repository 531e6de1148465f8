"""Measured speeds of this machine: one small JSON in the home folder, written by the trainer, read by the plan."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from dora_core.atomic import atomic_write
from trainer.config import RunConfig
from trainer.home import Home

KEPT = 200  # newest entries; each run writes one


class Speed(BaseModel):
    """How quick steps were in one run, and what they consisted of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float  # seconds since 1970
    host: str
    device: str  # cpu or cuda
    base: str
    kind: str
    targets: str
    text_encoder: bool
    has_prior: bool
    resolution_px: int
    pictures_per_step: int
    batch_size: int
    precision: str
    checkpointing: bool
    seconds_per_step: float


@dataclass(frozen=True)
class Expectation:
    seconds_per_step: float
    measured: Speed
    is_same: bool  # measured with the same model, adapter and sizes; else scaled by the pixels of a step


def record_speed(home: Home, config: RunConfig, device: str, seconds_per_step: float) -> None:
    """Add what a run measured (the median of its steps, without samples and checkpoints)."""
    speeds = [*read_speeds(home), speed_of(config, device, seconds_per_step)][-KEPT:]
    home.path.mkdir(parents=True, exist_ok=True)
    with atomic_write(home.path / "speed.json") as file:
        file.write(json.dumps([speed.model_dump() for speed in speeds], indent=1).encode())


def speed_of(config: RunConfig, device: str, seconds_per_step: float) -> Speed:
    return Speed(
        at=time.time(),
        host=socket.gethostname(),
        device=device.partition(":")[0],
        base=config.model.base,
        kind=config.adapter.kind,
        targets=config.adapter.targets,
        text_encoder=config.adapter.text_encoder,
        has_prior=config.data.prior is not None or bool(config.data.kept),
        resolution_px=config.data.resolution_px,
        pictures_per_step=config.pictures_per_step,
        batch_size=config.train.batch_size,
        precision=config.train.precision,
        checkpointing=config.train.checkpointing,
        seconds_per_step=seconds_per_step,
    )


def read_speeds(home: Home) -> list[Speed]:
    """All that is known, oldest first; [] without a file or with a damaged one: it only serves a guess."""
    try:
        rows = json.loads((home.path / "speed.json").read_text(encoding="utf-8"))
        return [Speed.model_validate(row) for row in rows]
    except (FileNotFoundError, ValueError, TypeError, ValidationError):
        return []


def expected_speed(home: Home, config: RunConfig, device: str) -> Expectation | None:
    """From the newest run on `device` that was the same in all that matters, else from the newest of the same model."""
    asked = speed_of(config, device, 0.0)
    known = [speed for speed in reversed(read_speeds(home)) if _place(speed) == _place(asked)]
    same = next((speed for speed in known if _key(speed) == _key(asked)), None)
    if same is not None:
        return Expectation(same.seconds_per_step, same, True)
    if not known:
        return None
    factor = _pixels(asked) / _pixels(known[0])
    return Expectation(known[0].seconds_per_step * factor, known[0], False)


def _place(speed: Speed) -> tuple[str, str, str]:
    return speed.host, speed.device, speed.base


def _key(speed: Speed) -> dict[str, object]:
    return speed.model_dump(exclude={"at", "seconds_per_step"})


def _pixels(speed: Speed) -> float:
    return speed.resolution_px**2 * speed.pictures_per_step
