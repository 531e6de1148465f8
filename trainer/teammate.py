"""What the processes of a run do that are not the first: the same steps on other batches, and nothing on disk."""

from __future__ import annotations

from trainer.build import build_training
from trainer.checkpoints import CheckpointStore, restore
from trainer.components import load_components
from trainer.compute import Compute
from trainer.config import RunConfig
from trainer.events import EventLog, Failed, PhaseName, Started, read_events
from trainer.failures import Failure, classify
from trainer.faults import crash_point
from trainer.home import Home
from trainer.lean import compile_blocks
from trainer.loop import Ending, take_step
from trainer.memory_advice import memory_explained
from trainer.run_dir import RunDir
from trainer.team import LostProcessError, StoppedError, Team


def accompany(run: RunDir, config: RunConfig, compute: Compute, home: Home, team: Team) -> Ending:
    """Take part in the run that the first process trains, until that says how it ended.

    An error of this process' own is in the run's events before it is raised, where the first process finds it.
    """
    try:
        team.collect((compute.name,))
        team.hear()  # the devices are ours
        with memory_explained(config):
            _train(run, config, compute, home, team)
        team.hear()  # it is exported
    except StoppedError:
        return "stopped"
    except LostProcessError:
        raise
    except Exception as error:
        failure = classify(error)
        sentence = f"Process {team.rank + 1} of {team.size}: {failure.sentence}"
        failed = Failed(category=failure.category, sentence=sentence, fix=failure.fix, trace=failure.trace)
        EventLog(run.events_file).append(failed)
        raise
    return "finished"


def _train(run: RunDir, config: RunConfig, compute: Compute, home: Home, team: Team) -> None:
    components = load_components(config.model, dtype=compute.dtype, device=compute.device)
    team.hear()  # everything that is cached is there
    training = build_training(config, components, compute, home, _unheard, team)
    if config.train.compile:
        compile_blocks(components.unet, compute.device)
    newest = CheckpointStore(run.checkpoints_dir, config.save.keep_last).newest()
    if newest is not None:
        restore(training, newest)
    while training.progress.step < training.steps:
        take_step(training, training.progress.step + 1)
        crash_point("teammate.stepped")
        team.hear()


def failure_of(error: BaseException, run: RunDir) -> Failure:
    """Of the first process: where it lost another one, what that one wrote since the run was started."""
    if isinstance(error, LostProcessError):
        for event in reversed(read_events(run.events_file)[0]):
            if isinstance(event, Started):
                break
            if isinstance(event, Failed):
                return Failure(event.category, event.sentence, event.fix, event.trace)
    return classify(error)


def _unheard(name: PhaseName, done: int, total: int) -> None:
    """The first process reports."""
