"""A run's settings as a whole: the sections, and the rules between them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config_rules import check_optimizer, check_schedule
from trainer.config_sections import (
    AdapterConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SampleConfig,
    SaveConfig,
    ScheduleConfig,
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
    sample: SampleConfig = SampleConfig()
    save: SaveConfig = SaveConfig()

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


_NO_TEXT_ENCODER = "but adapter.text_encoder is false: set that to true or take this setting out"
