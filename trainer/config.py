"""A run's settings as a whole: the sections, and the rules between them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainer.config_data import DataConfig
from trainer.config_learning import LossConfig, NoiseConfig, OptimConfig, ScheduleConfig
from trainer.config_rules import check_optimizer, check_schedule
from trainer.config_sections import (
    AdapterConfig,
    LogConfig,
    ModelConfig,
    SampleConfig,
    SaveConfig,
    Section,
    TrainConfig,
)

CONFIG_VERSION = 1


class RunConfig(Section):
    """One run; `run.toml` in its directory is this, whole."""

    config_version: Literal[1] = Field(default=CONFIG_VERSION, title="Version", description="Of this list of settings.")
    name: str = Field(
        default="run", title="Name", description="What the run is called; its folder's name is made from it."
    )
    model: ModelConfig
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    noise: NoiseConfig = NoiseConfig()
    sample: SampleConfig = SampleConfig()
    save: SaveConfig = SaveConfig()
    log: LogConfig = LogConfig()

    @property
    def pictures_per_step(self) -> int:
        return self.train.batch_size * self.train.accumulation

    @model_validator(mode="after")
    def _text_encoder_settings_need_a_text_encoder(self) -> RunConfig:
        if self.adapter.text_encoder:
            return self
        if self.optim.text_encoder_learning_rate is not None:
            value = self.optim.text_encoder_learning_rate
            raise ValueError(f"optim.text_encoder_learning_rate is {value}, {_NO_TEXT_ENCODER}")
        if self.train.text_encoder_stop != 1:
            raise ValueError(f"train.text_encoder_stop is {self.train.text_encoder_stop}, {_NO_TEXT_ENCODER}")
        return self

    @model_validator(mode="after")
    def _recomputation_has_to_be_on(self) -> RunConfig:
        if self.train.checkpointing:
            return self
        if self.model.bits != "as-is":
            raise ValueError(
                f"model.bits is {self.model.bits}, but train.checkpointing is false, which keeps every weight that was "
                "unpacked: set that to true, or model.bits to as-is"
            )
        if self.train.checkpointed != "all":
            raise ValueError(
                f"train.checkpointed is {self.train.checkpointed}, but train.checkpointing is false: set that to true "
                "or take this setting out"
            )
        return self

    @model_validator(mode="after")
    def _whole_weights_are_not_quantised(self) -> RunConfig:
        if self.model.bits != "as-is" and self.adapter.kind == "full":
            raise ValueError(
                f"model.bits is {self.model.bits}, but adapter.kind is full, which trains the weights themselves: set "
                "model.bits to as-is"
            )
        return self

    @model_validator(mode="after")
    def _convolution_rank_needs_convolutions(self) -> RunConfig:
        adapter = self.adapter
        if adapter.conv_rank is not None and adapter.targets != "attention-mlp-conv" and not adapter.include:
            raise ValueError(
                f"adapter.conv_rank is {adapter.conv_rank}, but adapter.targets, {adapter.targets}, holds no such "
                "layer: set adapter.targets to attention-mlp-conv or take adapter.conv_rank out"
            )
        return self

    @model_validator(mode="after")
    def _the_optimizer_takes_these_settings(self) -> RunConfig:
        check_optimizer(self.optim)
        if self.optim.row.finds_its_rate and self.train.text_encoder_stop != 1:
            raise ValueError(
                f"train.text_encoder_stop is {self.train.text_encoder_stop}, but {self.optim.kind} finds one rate from "
                "all that is trained: take this setting out"
            )
        return self

    @model_validator(mode="after")
    def _the_schedule_takes_these_settings(self) -> RunConfig:
        check_schedule(self.schedule, self.train.steps)
        return self

    @model_validator(mode="after")
    def _loss_settings_need_the_loss_that_has_them(self) -> RunConfig:
        loss = self.loss
        if loss.min_snr_gamma is not None and loss.weighting not in ("min-snr", "soft-min-snr"):
            raise ValueError(
                f"loss.min_snr_gamma is {loss.min_snr_gamma:g}, but loss.weighting is {loss.weighting}: set that to "
                "min-snr or soft-min-snr, or take the gamma out"
            )
        for name, value in (("delta", loss.delta), ("delta_schedule", loss.delta_schedule)):
            if loss.kind == "l2" and value not in (None, "constant"):
                raise ValueError(
                    f"loss.{name} is {value}, but loss.kind is l2, which has none: set that to huber or smooth-l1, or "
                    f"take loss.{name} out"
                )
        return self

    @model_validator(mode="after")
    def _offline_needs_a_project(self) -> RunConfig:
        if self.log.wandb_offline and self.log.wandb_project is None:
            raise ValueError("log.wandb_offline is true, but there is no log.wandb_project: name one, or take it out")
        return self

    @model_validator(mode="after")
    def _timesteps_need_a_range_and_the_distribution_that_has_the_settings(self) -> RunConfig:
        noise = self.noise
        first, last = noise.timestep_range
        if first >= last:
            raise ValueError(
                f"noise.timestep_range is [{first:g}, {last:g}], which leaves no timestep: give the lower end first"
            )
        if noise.timestep_location is not None and noise.timesteps != "logit-normal":
            raise ValueError(
                f"noise.timestep_location is {noise.timestep_location:g}, but noise.timesteps is {noise.timesteps}: "
                "set that to logit-normal or take the location out"
            )
        if noise.timestep_scale is not None and noise.timesteps == "uniform":
            raise ValueError(
                f"noise.timestep_scale is {noise.timestep_scale:g}, but noise.timesteps is uniform: set that to "
                "logit-normal or mode, or take the scale out"
            )
        return self


def renewed(values: dict[str, Any]) -> dict[str, Any]:
    """What a file says, older names replaced: train.min_snr_gamma chose the weighting before there were others."""
    train, loss = values.get("train"), values.get("loss", {})
    if not isinstance(train, dict) or "min_snr_gamma" not in train or not isinstance(loss, dict):
        return values
    others = {name: value for name, value in train.items() if name != "min_snr_gamma"}
    chosen = {"weighting": "min-snr", "min_snr_gamma": train["min_snr_gamma"]}
    return values | {"train": others, "loss": chosen | loss}


_NO_TEXT_ENCODER = "but adapter.text_encoder is false: set that to true or take this setting out"
