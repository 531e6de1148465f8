"""Run directories in every state, written with the trainer's own classes and without any training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dora_core.spec import Kind
from trainer.config import RunConfig
from trainer.config_io import dump_config, parse_config
from trainer.events import Event, EventLog, MetricsLog, Phase, Saved, Started, StepMetrics
from trainer.home import Home
from trainer.processes import Identity
from trainer.run_dir import RunDir
from trainer.twins import twin_config

BLOCKS = ("unet.down_blocks.0", "unet.down_blocks.1", "unet.mid_block", "unet.up_blocks.0", "unet.up_blocks.1")
PROMPTS = ("a red panda in the snow", "a red panda, watercolour", "a red panda as an astronaut")
ICONS = Path(__file__).parent.parent.parent / "assets" / "samples" / "icons3d"


def config(name: str = "red panda", kind: Kind = "dora", **train: Any) -> RunConfig:
    return parse_config(
        {
            "name": name,
            "model": {"base": "starter"},
            "data": {"folder": str(ICONS), "resolution_px": 64, "bucket_step_px": 8, "smallest_side_px": 32},
            "adapter": {"kind": kind, "rank": 8},
            "train": {"steps": 1500, **train},
            "sample": {"prompts": list(PROMPTS), "every_steps": 200},
        }
    )


def made(home: Home, settings: RunConfig | None = None, events: Sequence[Event] = (), steps: int = 0) -> RunDir:
    """A run that has begun, if it has events, taken so many steps, and then said the rest."""
    settings = settings or config()
    run = RunDir.create(home.runs, settings)
    if events:
        say(run, started(settings), Phase(name="training"))
        metrics(run, 1, steps, shift=0.02 if settings.adapter.kind == "lora" else 0.0)
        say(run, *events)
    return run


def made_twins(home: Home, name: str) -> list[RunDir]:
    """LoRA and DoRA, of which nothing has begun."""
    pair = json.dumps({"pair": name}).encode()
    settings = [twin_config(config(name), kind) for kind in ("lora", "dora")]
    return [
        RunDir.make(home.runs, own.name, {"run.toml": dump_config(own).encode(), "pair.json": pair}) for own in settings
    ]


def say(run: RunDir, *events: Event) -> None:
    for event in events:
        EventLog(run.events_file).append(event)


def started(settings: RunConfig, first_step: int = 0) -> Started:
    me = Identity.of()
    return Started(
        steps=settings.train.steps, first_step=first_step, host=me.host, pid=me.pid, create_time=me.create_time
    )


def row(step: int, shift: float = 0.0) -> StepMetrics:
    noise = math.sin(step * 12.9898) * 43758.5453 % 1 - 0.5
    is_checked = step % 100 == 0
    return StepMetrics(
        step=step,
        loss=0.06 + shift + 0.12 * math.exp(-step / 400) + 0.05 * noise,
        learning_rates={"unet.down": 1e-4, "unet.up": 1e-4, "unet.magnitude": 1e-4},
        seconds=0.29,
        band_losses=tuple(0.2 / (band + 1) + 0.02 * noise if (step + band) % 2 else None for band in range(4)),
        validation_band_losses=tuple(0.24 / (band + 1) for band in range(4)) if is_checked else (),
        validation_loss=0.075 + shift + 0.09 * math.exp(-step / 500) if is_checked else None,
        peak_mib=9_412.0,
        update_norms={name: (place + 1) * math.sqrt(step) / 90 for place, name in enumerate(BLOCKS)}
        if is_checked
        else {},
        magnitude_drift=step / 90_000 if is_checked else None,
    )


def metrics(run: RunDir, first: int, last: int, shift: float = 0.0) -> None:
    with open(run.metrics_file, "ab") as file:
        file.writelines(row(step, shift).model_dump_json().encode() + b"\n" for step in range(first, last + 1))


def append_step(run: RunDir, step: int) -> None:
    MetricsLog(run.metrics_file).append(row(step))


def saved(step: int) -> Saved:
    return Saved(step=step, folder=f"checkpoints/step-{step:06d}")


def sample(run: RunDir, step: int, name: str = "", prompts: Sequence[str] = PROMPTS) -> None:
    """Pictures that come nearer to an icon with the steps."""
    folder = run.samples_dir / (name or f"step-{step:06d}")
    temporary = run.samples_dir / f".tmp-{folder.name}"
    temporary.mkdir()
    icons = sorted(ICONS.glob("*.jpg"))
    shots = []
    for place, prompt in enumerate(prompts):
        with Image.open(icons[place * 3 + 2]) as icon:
            clear = icon.convert("RGB").resize((128, 128))
        side = max(4, min(128, step // 8 + 4))
        blurred = clear.resize((side, side)).resize((128, 128), Image.Resampling.BICUBIC)
        blurred.save(temporary / f"{place:02d}.png")
        shots.append({"file": f"{place:02d}.png", "prompt": prompt, "seed": 7 + place, "steps": 20})
    (temporary / "samples.json").write_text(json.dumps(shots), encoding="utf-8")
    temporary.rename(folder)
