"""What the loop works on, built and ready, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from dora_core.adapter import Adapter
from dora_core.families import neutral_name
from dora_core.state import AdapterState
from trainer.averages import Average, shown
from trainer.config_learning import NoiseConfig
from trainer.data.dataset import Batch, Dataset
from trainer.health import relative_change
from trainer.lean import NOTHING_ASIDE, Aside
from trainer.losses import ByBand, band_means, band_sums
from trainer.noise import Draw
from trainer.optim import RatePlan
from trainer.optimizers import OptimizerRow
from trainer.step import Denoiser
from trainer.team import ALONE, Team


@dataclass
class Progress:
    """How far a run is; with the weights and the optimizer's state all that a resumed run needs."""

    step: int = 0  # optimizer steps done, taken or skipped
    skipped_in_a_row: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Every:
    """Due at every `steps`-th step; 0: never."""

    steps: int

    def is_due(self, step: int) -> bool:
        return self.steps > 0 and step % self.steps == 0


@dataclass(frozen=True)
class Validation:
    """Fixed pictures with fixed noise and timesteps: a loss that can be compared from step to step and run to run."""

    batches: tuple[tuple[Batch, Draw], ...]
    every: Every


@dataclass(frozen=True)
class Training:
    """`models`: everything that is in training mode while it trains; `scaler`: of the loss, at work in fp16 only."""

    steps: int
    accumulation: int
    seed: int
    clip_norm: float
    datasets: tuple[Dataset, ...]
    denoiser: Denoiser
    noise: NoiseConfig
    models: Mapping[str, nn.Module]
    adapters: Mapping[str, Adapter]
    optimizer: Optimizer
    optimizer_row: OptimizerRow
    rates: RatePlan
    scaler: torch.amp.GradScaler
    validation: Validation
    identity: Mapping[str, object]
    average: Average | None = None
    team: Team = ALONE
    aside: Aside = NOTHING_ASIDE
    progress: Progress = field(default_factory=Progress)

    def state(self) -> AdapterState:
        """Everything learned, under neutral names; the average where there is one."""
        with shown(self.average, self.adapters):
            return pipeline_state(self.adapters)

    def relative_change(self) -> float:
        """norm(W' - W0) / norm(W0) of what is exported: the average where there is one."""
        with shown(self.average, self.adapters):
            return relative_change(self.adapters)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The average, where there is one, without dropout and checkpointing inside, and without a gradient."""
        try:
            for model in self.models.values():
                model.eval()
            with torch.no_grad(), shown(self.average, self.adapters):
                yield
        finally:
            for model in self.models.values():
                model.train()


@dataclass(frozen=True)
class Outcome:
    """Of one optimizer step. `reason`: why it was skipped, the weights staying as they were; empty: it was taken."""

    loss: float
    band_losses: ByBand
    learning_rates: dict[str, float]
    pictures: tuple[str, ...]
    reason: str


def validation_losses(training: Training) -> tuple[float, ByBand]:
    """Mean squared error on the fixed pictures, all timesteps alike; and by band."""
    batches = training.validation.batches
    with training.evaluating():
        errors = torch.cat([training.denoiser.loss(batch, fixed).errors for batch, fixed in batches])
    timesteps = torch.cat([fixed.timesteps for _, fixed in batches])
    schedule_steps = len(training.denoiser.schedule.alphas_bar)
    return float(errors.mean()), band_means(band_sums(errors.tolist(), timesteps.tolist(), schedule_steps))


def is_finite(adapters: Mapping[str, Adapter]) -> bool:
    return all(bool(p.isfinite().all()) for adapter in adapters.values() for p in adapter.parameters())


def pipeline_state(adapters: Mapping[str, Adapter]) -> AdapterState:
    """One state of the adapters of all parts."""
    states = {part: adapter.state() for part, adapter in adapters.items()}
    layers = {neutral_name(part, path): layer for part, state in states.items() for path, layer in state.layers.items()}
    return AdapterState(layers, next(iter(states.values())).norm_axis)
