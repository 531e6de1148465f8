"""The settings of learning itself: optimizer, schedule, what is minimised, and the noise that is trained with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.config_sections import Section
from trainer.optimizers import OPTIMIZERS, Betas, OptimizerKind, OptimizerRow

ScheduleKind = Literal["cosine", "constant", "linear", "rex"]
Weighting = Literal["none", "min-snr", "soft-min-snr", "debiased", "p2"]
LossKind = Literal["l2", "huber", "smooth-l1"]
DeltaSchedule = Literal["constant", "snr"]
TimestepDistribution = Literal["uniform", "logit-normal", "mode"]
Share = Annotated[float, Field(ge=0, le=1)]


class OptimConfig(Section):
    kind: OptimizerKind = Field(
        default="adamw",
        title="Optimizer",
        description="adamw8bit needs bitsandbytes and a card; prodigy finds the rate by itself.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        title="Learning rate",
        description="Of the UNet's adapter, at the top of the schedule; absent: 1e-4 for adamw, 2e-5 for lion, "
        "2e-4 for adamw-schedule-free, 1 for prodigy, a factor of the rate that it finds.",
    )
    text_encoder_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        title="Learning rate of the text encoder",
        description="Absent: a quarter of the learning rate; with prodigy the same.",
    )
    up_factor: float = Field(
        default=1.0,
        gt=0,
        le=100,
        title="LoRA+ ratio",
        description="Learning rate of the up factors by that of the down factors; LoRA+ advises more than 1.",
    )
    magnitude_factor: float = Field(
        default=1.0,
        ge=0,
        le=100,
        title="Magnitude's factor",
        description="Learning rate of DoRA's magnitudes by the others'.",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        title="Weight decay",
        description="Of the factors, in proportion to the rate; magnitudes have none.",
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = Field(
        default=None,
        title="Betas",
        description="Averaging of the gradient and of its square; absent: 0.9 and 0.999, for lion 0.99.",
    )
    clip_norm: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        title="Gradient clip",
        description="Largest norm of all gradients together; 0: whatever it is.",
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        title="Average of the adapter",
        description="What is kept at each step of a moving average (EMA), which is drawn and exported, such as 0.99.",
    )

    @property
    def row(self) -> OptimizerRow:
        return OPTIMIZERS[self.kind]

    @property
    def rate(self) -> float:
        return self.row.learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def text_encoder_rate(self) -> float:
        if self.text_encoder_learning_rate is not None:
            return self.text_encoder_learning_rate
        return self.rate if self.row.finds_its_rate else self.rate / 4

    @property
    def own_betas(self) -> Betas | None:
        """None for an optimizer that has none."""
        return self.betas or self.row.betas


class ScheduleConfig(Section):
    kind: ScheduleKind = Field(
        default="cosine",
        title="Schedule",
        description="How the learning rate falls to 0 after warm-up, or that it stays; rex: fastest at the end.",
    )
    warmup: float = Field(
        default=0.05,
        ge=0,
        le=1_000_000,
        title="Warm-up",
        description="How long the learning rate rises from 0: up to 0.5 a share of the steps, from 1 on their number.",
    )
    decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Falls during",
        description="The last share of the steps after warm-up, such as 0.2; before, it stays (warmup-stable-decay).",
    )
    cycles: int = Field(
        default=1,
        ge=1,
        le=100,
        title="Falls",
        description="How many times it falls, each time from the top; cosine: with warm restarts.",
    )

    def warmup_steps(self, steps: int) -> int:
        return round(self.warmup * steps) if self.warmup < 1 else round(self.warmup)


class LossConfig(Section):
    """What is minimised; trainer/objective.py has the equations."""

    weighting: Weighting = Field(
        default="none",
        title="Weighting",
        description="How much a timestep counts by its ratio of signal to noise; none: all alike.",
    )
    min_snr_gamma: float | None = Field(
        default=None,
        gt=0,
        le=100,
        title="Min-SNR gamma",
        description="Weigh timesteps by min(SNR, gamma), or its soft form; absent: 5.",
    )
    kind: LossKind = Field(
        default="l2",
        title="Loss",
        description="l2: the squared error; huber and smooth-l1 count large errors less, which forgives odd pictures.",
    )
    delta: float | None = Field(
        default=None,
        gt=0,
        le=10,
        title="Delta",
        description="From which error on huber and smooth-l1 grow like a straight line; absent: 0.1.",
    )
    delta_schedule: DeltaSchedule = Field(
        default="constant",
        title="Delta by noise",
        description="snr: delta is 1 where there is no noise and falls to its value where there is only noise.",
    )


class NoiseConfig(Section):
    """Which noise pictures are trained with, and how much of it; trainer/noise.py has the equations."""

    timesteps: TimestepDistribution = Field(
        default="uniform",
        title="Timesteps",
        description="How they are drawn: uniform, or logit-normal or mode, which favour the middle.",
    )
    timestep_location: float | None = Field(
        default=None,
        ge=-5,
        le=5,
        title="Location",
        description="Of logit-normal: below 0 favours little noise, above 0 much; absent: 0.",
    )
    timestep_scale: float | None = Field(
        default=None,
        gt=0,
        le=1.75,
        title="Scale",
        description="Spread of logit-normal; how much mode favours the middle; absent: 1.",
    )
    timestep_range: tuple[Share, Share] = Field(
        default=(0.0, 1.0),
        title="Range of timesteps",
        description="From and to which share of the schedule; 0 is the picture, 1 noise alone.",
    )
    offset: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Noise offset",
        description="One more value of noise per picture and channel, for darker and brighter pictures; 0.05 is usual.",
    )
    pyramid: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Pyramid noise",
        description="Coarser noise on top, each level half as fine and weaker by this factor; 0: none, 0.3 is usual.",
    )
    perturbation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Input perturbation",
        description="Noise that goes in and is not to be predicted, as errors of earlier steps do; 0.1 is usual.",
    )
