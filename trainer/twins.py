"""Twin runs: LoRA and DoRA with everything else alike, as two ordinary runs that carry the same pair id."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from dora_core.spec import Kind
from trainer.config import RunConfig
from trainer.config_io import dump_config
from trainer.run_dir import RunDir

PAIR_FILE = "pair.json"
TWINS: tuple[Kind, ...] = ("lora", "dora")


def create_runs(config: RunConfig, root: Path) -> list[RunDir]:
    """The run of a config, or with `train.twin` the pair, LoRA first.

    Twins have the same seed, and all that is random follows from it by name: start values, order, noise, samples.
    """
    twins = configs_of(config)
    if len(twins) == 1:
        return [RunDir.create(root, config)]
    pair = json.dumps({"pair": secrets.token_hex(8)}).encode()
    files = [{"run.toml": dump_config(twin).encode(), PAIR_FILE: pair} for twin in twins]
    return [RunDir.make(root, twin.name, own) for twin, own in zip(twins, files, strict=True)]


def configs_of(config: RunConfig) -> list[RunConfig]:
    """The config of each run that `create_runs` makes of this one."""
    return [twin_config(config, kind) for kind in TWINS] if config.train.twin else [config]


def twin_config(config: RunConfig, kind: Kind) -> RunConfig:
    return config.model_copy(
        update={
            "name": f"{config.name} {kind}",
            "adapter": config.adapter.model_copy(update={"kind": kind}),
            "train": config.train.model_copy(update={"twin": False}),
        }
    )


def pair_id(run: RunDir) -> str | None:
    """What a run shares with its twin; None: it has none."""
    file = run.path / PAIR_FILE
    return json.loads(file.read_bytes())["pair"] if file.is_file() else None


def twins_of(run: RunDir) -> list[RunDir]:
    """The runs of the pair that are still there, this one among them, by name; [] without a pair."""
    wanted = pair_id(run)
    beside = [RunDir(path) for path in sorted(run.path.parent.iterdir()) if path.is_dir()]
    return [other for other in beside if wanted is not None and pair_id(other) == wanted]
