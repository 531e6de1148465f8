"""Samples of a run at its newest checkpoint, drawn on request, with the run's settings or others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from trainer.build import first_caption, inject_adapters, sample_shots
from trainer.checkpoints import ADAPTER, CheckpointStore, load_weights, read_state
from trainer.components import load_components
from trainer.compute import choose_compute
from trainer.config_io import config_from, read_toml
from trainer.data.tensor_cache import cache_key
from trainer.events import EventLog, Sampled
from trainer.failures import ExplainedError
from trainer.quiet import quiet_libraries
from trainer.run_dir import RunDir
from trainer.sampling import draw_samples


class NoCheckpointError(ExplainedError):
    """The run has nothing to draw with yet."""

    category = "missing file"


def draw_run(run: RunDir, overrides: Sequence[str] = ()) -> Path:
    """Draw with the adapter of the newest checkpoint; returns the folder, which other settings give another name."""
    config = config_from(read_toml(run.config_file), overrides)
    newest = CheckpointStore(run.checkpoints_dir, config.save.keep_last).newest()
    if newest is None:
        raise NoCheckpointError(f"{run.id} has no whole checkpoint yet.", "Train it, or wait for its first checkpoint.")
    prompts = config.sample.prompts or config.data.instance_prompt
    shots = sample_shots(config, "" if prompts else first_caption(config.data))
    compute = choose_compute(config.train.precision)
    components = load_components(config.model, dtype=compute.dtype, device=compute.device)
    load_weights(inject_adapters(config, components), read_state(newest.folder / ADAPTER))
    folder = run.samples_dir / f"asked-{newest.step:06d}-{cache_key(shots)[:8]}"
    draw_samples(components, shots, folder)
    EventLog(run.events_file).append(Sampled(step=newest.step, folder=folder.relative_to(run.path).as_posix()))
    return folder


def run_job(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    """A job of kind "sample"; parameter `settings`: a list of key=value."""
    quiet_libraries()
    settings = parameters.get("settings")
    for run in runs:
        draw_run(run, [str(setting) for setting in settings] if isinstance(settings, list) else ())
