"""A run from its folder to its exported adapter, in this process: lock, phases, loop, export, and errors as events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from dora_core.metadata import About
from trainer.alarms import faintness
from trainer.base_weights import open_base
from trainer.build import build_training, sample_shots
from trainer.checkpoints import Checkpoint, CheckpointStore, restore, size_bytes
from trainer.components import Components, load_components
from trainer.compute import Compute, choose_compute
from trainer.config import RunConfig
from trainer.config_io import parse_config, read_toml
from trainer.data.wording import told_of_texts
from trainer.device_lock import DeviceBusyError, Holder, hold_device, named, told
from trainer.disk import require_free
from trainer.environment import write_environment
from trainer.events import EventLog, Failed, Finished, Phase, PhaseName, Started, Stopped, Warned
from trainer.export import export_adapter
from trainer.export_targets import finishing_targets
from trainer.faults import crash_point
from trainer.finishing import export_all
from trainer.home import Home
from trainer.lean import compile_blocks
from trainer.loop import Ending, train
from trainer.memory_advice import memory_explained
from trainer.optim import describe_groups, require_optimizer
from trainer.processes import Identity
from trainer.progress_bar import ProgressBar
from trainer.run_dir import RunDir, slug
from trainer.sampling import draw_samples, remove_unfinished
from trainer.shot import Shot
from trainer.speed import record_speed
from trainer.status import PHASES
from trainer.team import Team, join_team, note_on_shares, require_shares
from trainer.teammate import accompany, failure_of
from trainer.training import Every, Training
from trainer.watch import StopAskedError, Watch, answer_stop
from trainer.writer_packages import require_writers
from trainer.writers import Writers, open_writers


def run_training(run: RunDir, wait_for_device: bool = True) -> Ending:
    """Train the run, from its newest checkpoint where it has one, and export the adapter when it is finished.

    Where another run trains on the device it waits, or raises DeviceBusyError if it shall not. Raises RunBusyError
    where another process works on the run. Any other error is in the events before it is raised. Of several processes
    that were launched together the first does all this, and the others help it.
    """
    team = join_team()
    if not team.is_first:
        config = parse_config(read_toml(run.config_file))
        return accompany(run, config, choose_compute(config.train.precision), home_of(run), team)
    with run.hold():
        try:
            return _work(run, parse_config(read_toml(run.config_file)), wait_for_device, team)
        except BaseException as error:
            run.require()  # else that is why
            failure = failure_of(error, run)
            failed = Failed(category=failure.category, sentence=failure.sentence, fix=failure.fix, trace=failure.trace)
            with suppress(OSError):  # the disk may be what failed
                EventLog(run.events_file).append(failed)
            raise


def home_of(run: RunDir) -> Home:
    """The home that the run lies in, so that its caches are shared with the runs beside it."""
    return Home(run.path.parent.parent) if run.path.parent.name == "runs" else Home.find()


def _work(run: RunDir, config: RunConfig, wait_for_device: bool, team: Team) -> Ending:
    events, store = EventLog(run.events_file), CheckpointStore(run.checkpoints_dir, config.save.keep_last)
    store.clean()
    remove_unfinished(run.samples_dir)
    newest = store.newest()
    if newest is not None:  # a process that was killed may not have come to it
        store.prune(newest.folder)
    compute = choose_compute(config.train.precision)
    events.append(_started(config, newest, compute))
    require_optimizer(config.optim.kind, compute.device)
    require_writers(config.log)
    require_shares(config.train.accumulation, team)
    _warn(run, note_on_shares(config.train.accumulation, team))
    try:
        with ExitStack() as held:
            for device in sorted(team.collect((compute.name,))):
                held.enter_context(hold_device(device, run.path, _Patience(run, device, wait_for_device, team)))
            held.enter_context(memory_explained(config))
            team.tell("go")
            write_environment(run, compute, team, {})
            ending = _train_and_export(run, config, compute, store, newest, team)
    except StopAskedError:
        ending = "stopped"
    team.tell("stop" if ending == "stopped" else "go")
    if ending == "finished":
        # A run whose steps were lowered below what it had done is where it was.
        events.append(Finished(step=max(config.train.steps, newest.step if newest else 0)))
    else:
        newest = store.newest()
        events.append(Stopped(step=newest.step if newest else 0))
    return ending


def _train_and_export(
    run: RunDir, config: RunConfig, compute: Compute, store: CheckpointStore, newest: Checkpoint | None, team: Team
) -> Ending:
    home, report = home_of(run), _Report(run, team)
    report("loading")
    components = load_components(config.model, dtype=compute.dtype, device=compute.device)
    write_environment(run, compute, team, _commit(components))
    training = build_training(config, components, compute, home, report, team)
    if config.train.compile:
        _warn(run, compile_blocks(components.unet, compute.device))
    require_free(run.path, size_bytes(training) * (config.save.keep_last + 1), "the run")
    if newest is not None:
        restore(training, newest)
        _warn(run, note_on_threads(newest, compute))
    _warn(run, note_on_bits(config))
    texts = [found for dataset in training.datasets for found in dataset.wordings]
    print(told_of_texts(texts, config.adapter.text_encoder))
    print(describe_groups(training.adapters, training.optimizer), flush=True)
    report("training")
    warn = partial(_warn, run)
    with (
        ProgressBar(training.steps, training.progress.step) as bar,
        open_writers(run, config, training.progress.step + 1, warn) as writers,
    ):
        watch = _watch(run, config, components, training, store, compute, bar, writers)
        ending = train(training, watch)
    if watch.seconds and team.size == 1:  # what a plan counts with
        record_speed(home, config, str(compute.device), watch.median_seconds)
    if ending == "finished":
        _warn(run, faintness(training.relative_change()))
        export_run(run, config, components, training, report)
    return ending


def _warn(run: RunDir, note: str) -> None:
    """Nothing where the note is empty."""
    if note:
        EventLog(run.events_file).append(Warned(text=note))
        print(note, flush=True)


def export_run(run: RunDir, config: RunConfig, components: Components, training: Training, report: _Report) -> None:
    """Raises UnprovenError, and StopAskedError between two files."""
    base, state = open_base(components.path), training.state()
    crash_point("export.begun")
    about = About(
        title=config.name,
        base_model=config.model.base,
        base_model_sha256=base.sha256,
        prediction=training.denoiser.schedule.prediction,
        trigger_phrase=config.data.trigger or config.data.instance_prompt or None,
        clip_skip=config.model.clip_skip,
        provenance={"steps": str(training.steps), "seed": str(training.seed)} | _commit(components) | _bits(config),
    )
    kind = config.adapter.kind
    stem = f"{slug(config.name).removesuffix(f'-{kind}')}-{kind}"  # the names of twins end with it already
    export = partial(export_adapter, state, base.weights, base.modules, about=about)
    export_all(run, finishing_targets(state.form), stem, export, report)
    crash_point("export.done")


def _bits(config: RunConfig) -> dict[str, str]:
    return {} if config.model.bits == "as-is" else {"bits": config.model.bits}


def note_on_bits(config: RunConfig) -> str:
    """Empty, or that the base which files are proven against is not quite the one that was trained on."""
    if config.model.bits == "as-is":
        return ""
    return (
        f"model.bits is {config.model.bits}: training sees a quantised base and so do the samples; the exported file "
        "is for the true one, and proven against that. Compare shows how it draws there."
    )


def note_on_threads(checkpoint: Checkpoint, compute: Compute) -> str:
    """Empty, or what becomes of exactness: sums over several threads are rounded in another order than those of one."""
    then, now = checkpoint.description.get("threads"), torch.get_num_threads()
    if compute.device.type != "cpu" or then in (None, now):
        return ""
    return (
        f"The checkpoint was made with {then} threads, this process has {now}: the last digits of the weights may "
        f"differ from those of an undisturbed run, nothing else. OMP_NUM_THREADS={then} makes them the same."
    )


def _watch(
    run: RunDir,
    config: RunConfig,
    components: Components,
    training: Training,
    store: CheckpointStore,
    compute: Compute,
    bar: ProgressBar,
    writers: Writers,
) -> Watch:
    shots = sample_shots(config, training.datasets[0].plain_batch([0]).captions[0])
    return Watch(
        run=run,
        store=store,
        draw=partial(_draw, training, components, shots),
        peak_mib=lambda: compute.peak_mib,
        bar=bar,
        save_every=Every(config.save.every_steps),
        sample_every=Every(config.sample.every_steps),
        writers=writers,
        team=training.team,
    )


def _draw(
    training: Training, components: Components, shots: Sequence[Shot], folder: Path, report: Callable[[int, int], None]
) -> None:
    with training.aside.brought_back():
        draw_samples(components, shots, folder, report)


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


@dataclass
class _Patience:
    """What to do while another run has the device: say so, once for each that has it, and look for a stop."""

    run: RunDir
    device: str
    is_patient: bool
    team: Team
    said: str = ""

    def __call__(self, holder: Holder | None) -> None:
        answer_stop(self.run)
        self.team.tell("wait")
        if not self.is_patient:
            raise DeviceBusyError(self.device, holder)
        sentence = f"{named(self.device)} is in use by {told(holder)}: waiting until it is free"
        if sentence != self.said:
            self.said = sentence
            print(sentence, flush=True)
            EventLog(self.run.events_file).append(Phase(name="waiting", detail=sentence))


@dataclass
class _Report:
    """Phases before and after training: an event each, a line when another begins, and a moment to answer a stop."""

    run: RunDir
    team: Team
    said: PhaseName = "starting"

    def __call__(self, name: PhaseName, done: int = 0, total: int = 0) -> None:
        answer_stop(self.run)
        self.team.tell("wait")
        EventLog(self.run.events_file).append(Phase(name=name, done=done, total=total))
        if name != self.said:
            self.said = name
            print(f"{PHASES[name][1]} ...", flush=True)


def _commit(components: Components) -> dict[str, str]:
    """Which of the versions of a model on the hub it is."""
    return {} if components.commit is None else {"base_model_commit": components.commit}
