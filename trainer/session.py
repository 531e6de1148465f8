"""A run from its folder to its exported adapter, in this process: lock, phases, loop, export, and errors as events."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from dora_core.atomic import atomic_write
from dora_core.metadata import About
from trainer.base_weights import open_base
from trainer.build import build_training, sample_shots
from trainer.checkpoints import Checkpoint, CheckpointStore, restore, size_bytes
from trainer.components import Components, load_components
from trainer.compute import Compute, choose_compute
from trainer.config import RunConfig
from trainer.config_io import parse_config, read_toml
from trainer.disk import require_free
from trainer.events import EventLog, Exported, Failed, Finished, Phase, PhaseName, Started, Stopped, Warned
from trainer.export import TARGETS, ExportTarget, UnprovenError, export_adapter
from trainer.failures import classify
from trainer.faults import crash_point
from trainer.home import Home
from trainer.loop import Ending, train
from trainer.optim import describe_groups
from trainer.processes import Identity
from trainer.progress_bar import ProgressBar
from trainer.run_dir import RunDir, slug
from trainer.sampling import draw_samples
from trainer.speed import record_speed
from trainer.training import Every, Training
from trainer.watch import Watch

VERSIONS_OF = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow")


def run_training(run: RunDir) -> Ending:
    """Train the run, from its newest checkpoint where it has one, and export the adapter when it is finished.

    Raises RunBusyError where another process works on it. Any other error is in the events before it is raised.
    """
    with run.hold():
        try:
            return _work(run, parse_config(read_toml(run.config_file)))
        except BaseException as error:
            failure = classify(error)
            failed = Failed(category=failure.category, sentence=failure.sentence, fix=failure.fix, trace=failure.trace)
            with contextlib.suppress(OSError):  # the disk may be what failed
                EventLog(run.events_file).append(failed)
            raise


def home_of(run: RunDir) -> Home:
    """The home that the run lies in, so that its caches are shared with the runs beside it."""
    return Home(run.path.parent.parent) if run.path.parent.name == "runs" else Home.find()


def _work(run: RunDir, config: RunConfig) -> Ending:
    home, events = home_of(run), EventLog(run.events_file)
    store = CheckpointStore(run.checkpoints_dir, config.save.keep_last)
    store.clean()
    newest = store.newest()
    compute = choose_compute(config.train.precision)
    events.append(_started(config, newest, compute))
    _write_environment(run, compute)
    events.append(Phase(name="loading"))
    components = load_components(config.model, dtype=compute.dtype, device=compute.device)
    training = build_training(config, components, compute, home, partial(_report_phase, events))
    require_free(run.path, size_bytes(training) * (config.save.keep_last + 1), "the run")
    if newest is not None:
        restore(training, newest)
    print(describe_groups(training.adapters, training.optimizer), flush=True)
    events.append(Phase(name="training"))
    with ProgressBar(training.steps, training.progress.step) as bar:
        watch = _watch(run, config, components, training, store, compute, bar)
        ending = train(training, watch)
    if watch.seconds:
        record_speed(home, config, str(compute.device), watch.median_seconds)
    if ending == "finished":
        events.append(Phase(name="exporting"))
        export_run(run, config, components, training)
        events.append(Finished(step=training.progress.step))
    else:
        events.append(Stopped(step=training.progress.step))
    return ending


def export_run(run: RunDir, config: RunConfig, components: Components, training: Training) -> None:
    """The adapter in the file or files that its kind is exact in, each proven; a warning where one is not."""
    base, state = open_base(components.path), training.state()
    crash_point("export.begun")
    about = About(
        title=config.name,
        base_model=config.model.base,
        base_model_sha256=base.sha256,
        prediction=training.denoiser.schedule.prediction,
        trigger_phrase=config.data.instance_prompt or None,
        provenance={"steps": str(training.steps), "seed": str(training.seed)},
    )
    events = EventLog(run.events_file)
    for target in finishing_targets(state.norm_axis):
        path = run.exports_dir / f"{slug(config.name)}-{config.adapter.kind}{target.ending}"
        try:
            exported = export_adapter(state, base.weights, base.modules, target, path, about)
        except UnprovenError as error:
            events.append(Warned(text=str(error)))
        else:
            file = exported.path.relative_to(run.path).as_posix()
            events.append(Exported(file=file, headline=exported.report.headline))
    crash_point("export.done")


def finishing_targets(norm_axis: str | None) -> Sequence[ExportTarget]:
    """What a finished run is exported for: one file that renders everywhere, or the two that the output axis needs."""
    names = ("lycoris", "comfyui-compensated") if norm_axis == "output" else ("comfyui",)
    return [TARGETS[name] for name in names]


def _watch(
    run: RunDir,
    config: RunConfig,
    components: Components,
    training: Training,
    store: CheckpointStore,
    compute: Compute,
    bar: ProgressBar,
) -> Watch:
    shots = sample_shots(config, training.datasets[0].examples[0].caption)
    return Watch(
        run=run,
        store=store,
        draw=partial(draw_samples, components.pipeline, shots),
        peak_mib=lambda: compute.peak_mib,
        bar=bar,
        save_every=Every(config.save.every_steps),
        sample_every=Every(config.sample.every_steps),
    )


def _started(config: RunConfig, newest: Checkpoint | None, compute: Compute) -> Started:
    own = Identity.of()
    return Started(
        steps=config.train.steps,
        first_step=0 if newest is None else newest.step,
        device=str(compute.device),
        host=own.host,
        pid=own.pid,
        create_time=own.create_time,
    )


def _report_phase(events: EventLog, name: PhaseName, done: int, total: int) -> None:
    events.append(Phase(name=name, done=done, total=total))


def _write_environment(run: RunDir, compute: Compute) -> None:
    """What the run was made with, for whoever wants to do it again."""
    versions = {name: metadata.version(name) for name in VERSIONS_OF}
    facts = {"python": platform.python_version(), "system": platform.platform(), "device": str(compute.device)}
    with atomic_write(Path(run.environment_file)) as file:
        file.write(json.dumps(facts | versions, indent=1).encode())
