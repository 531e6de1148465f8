"""The training loop: a step, what is told of it, what is due after it. Everything it touches arrives built."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from trainer.failures import DivergedError
from trainer.noise import draw
from trainer.optim import named_parameters
from trainer.seeds import seed_of
from trainer.training import Training
from trainer.watch import Watch

Ending = Literal["finished", "stopped"]
MAX_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class Outcome:
    """Of one optimizer step. `reason`: why it was skipped, the weights staying as they were; empty: it was taken."""

    loss: float
    learning_rates: dict[str, float]
    pictures: tuple[str, ...]
    reason: str


def train(training: Training, watch: Watch) -> Ending:
    """Take steps until all are done or a stop is asked for, which it saves for.

    Raises DivergedError after too many skipped steps, StopAskedError where a stop is asked for while samples are drawn:
    the checkpoint of that step is there already.
    """
    progress = training.progress
    watch.sample_if_missing(training)
    training.team.tell("go")
    while progress.step < training.steps:
        begun = time.perf_counter()
        outcome = take_step(training, progress.step + 1)
        seconds = time.perf_counter() - begun
        watch.report(training, outcome.loss, outcome.learning_rates, seconds)
        if outcome.reason:
            watch.report_skipped(progress.step, outcome.reason, outcome.pictures)
        if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            watch.save(training)  # skipped steps changed nothing: this is the last good adapter
            raise DivergedError(progress.step, progress.skipped_in_a_row, outcome.pictures)
        watch.save_if_due(training)
        watch.sample_if_due(training)
        watch.wait_while_paused(training)
        if watch.is_stop_asked(progress.step):
            watch.save(training)
            return "stopped"
        training.team.tell("go")
    return "finished"


def take_step(training: Training, step: int) -> Outcome:
    """One optimizer step, the `step`-th counted from 1; all its randomness follows from the seed and `step`."""
    training.rates.apply(training.optimizer, step)
    loss, pictures = accumulate_gradients(training, step)
    reason = update_weights(training, loss)
    if reason:
        pictures = training.team.collect(pictures)
    progress = training.progress
    progress.step = step
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if reason else 0
    progress.skipped += bool(reason)
    rates = {group["name"]: group["lr"] for group in training.optimizer.param_groups}
    return Outcome(loss, rates, pictures, reason)


def accumulate_gradients(training: Training, step: int) -> tuple[float, tuple[str, ...]]:
    """Mean loss of the step's batches, and the pictures of those that this process takes.

    The gradients of all, those of other processes too, are summed up in the parameters.
    """
    training.optimizer.zero_grad()
    timesteps = len(training.denoiser.schedule.alphas_bar)
    losses, pictures = list[Tensor](), list[str]()
    for micro in training.team.share(training.accumulation):
        for dataset in training.datasets:
            batch = dataset.batch((step - 1) * training.accumulation + micro)
            names = (training.seed, step, micro, dataset.purpose)
            torch.manual_seed(seed_of(*names, "dropout"))  # layers draw their dropout from the global generator
            loss = training.denoiser.loss(
                batch, draw(batch.latents.shape, timesteps, training.noise, *names, "noise")
            ).weighted
            loss = loss * (dataset.weight / training.accumulation)
            training.scaler.scale(loss).backward()
            losses.append(loss.detach())
            pictures += batch.names
    total = training.team.add_up(named_parameters(training.adapters).values(), reduce(torch.add, losses))
    return float(total), tuple(dict.fromkeys(pictures))


def update_weights(training: Training, loss: float) -> str:
    """Clip and apply the gradients; where they or the loss are not finite nothing changes: returns the reason."""
    training.scaler.unscale_(training.optimizer)
    parameters = [p for group in training.optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = float(clip_grad_norm_(parameters, training.clip_norm))
    if math.isfinite(loss) and math.isfinite(norm):
        training.scaler.step(training.optimizer)
        reason = ""
    else:
        reason = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    training.scaler.update()
    return reason
