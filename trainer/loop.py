"""The training loop: a step, what is told of it, what is due after it. Everything it touches arrives built."""

from __future__ import annotations

import math
import time
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from trainer.failures import DivergedError
from trainer.losses import ByBand, band_means, band_sums
from trainer.noise import draw
from trainer.optim import effective_rates, named_parameters
from trainer.seeds import seed_of
from trainer.training import Outcome, Training
from trainer.watch import Watch

Ending = Literal["finished", "stopped"]
MAX_SKIPPED_IN_A_ROW = 20


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
        watch.report(training, outcome, seconds)
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
    rates = effective_rates(training.optimizer)
    loss, band_losses, pictures = accumulate_gradients(training, step)
    reason = update_weights(training, loss)
    if reason:
        pictures = training.team.collect(pictures)
    progress = training.progress
    progress.step = step
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if reason else 0
    progress.skipped += bool(reason)
    if training.average is not None and not reason:
        training.average.update(step - progress.skipped)
    return Outcome(loss, band_losses, rates, pictures, reason)


def accumulate_gradients(training: Training, step: int) -> tuple[float, ByBand, tuple[str, ...]]:
    """Mean loss of the step's batches, errors by band, and the pictures of the batches that this process takes.

    The gradients of all, those of other processes too, are summed up in the parameters.
    """
    training.optimizer.zero_grad()
    schedule_steps = len(training.denoiser.schedule.alphas_bar)
    losses, pictures = list[Tensor](), list[str]()
    errors, timesteps = list[Tensor](), list[int]()
    for micro in training.team.share(training.accumulation):
        for dataset in training.datasets:
            batch = dataset.batch((step - 1) * training.accumulation + micro)
            names = (training.seed, step, micro, dataset.purpose)
            torch.manual_seed(seed_of(*names, "dropout"))  # layers draw their dropout from the global generator
            drawn = draw(batch.latents.shape, schedule_steps, training.noise, *names, "noise")
            of_batch = training.denoiser.loss(batch, drawn)
            loss = of_batch.weighted * (dataset.weight / training.accumulation)
            training.scaler.scale(loss).backward()
            losses.append(loss.detach())
            pictures += batch.names
            if dataset.purpose == "instance":
                errors.append(of_batch.errors)
                timesteps += drawn.timesteps.tolist()
    total = reduce(torch.add, losses)
    bands = total.new_tensor(band_sums(torch.cat(errors).tolist(), timesteps, schedule_steps))
    numbers = torch.cat([total.reshape(1), bands])
    loss, *sums = training.team.add_up(named_parameters(training.adapters).values(), numbers).tolist()
    return loss, band_means(sums), tuple(dict.fromkeys(pictures))


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
