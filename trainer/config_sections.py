"""Every setting of a run, declared once: type, default, bounds, title and help serve command line, form and docs.

Nothing is built here and torch is not imported; `trainer.config_io` reads and writes these models. They are frozen and
refuse keys that are not declared. A setting that may be absent is None by default, since TOML has no other word for it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dora_core.families import TargetSet
from dora_core.spec import Form, Kind, NormAxis, NormGradient

Precision = Literal["auto", "fp32", "bf16", "fp16"]
BaseBits = Literal["as-is", "int8", "nf4"]
Checkpointed = Literal["all", "transformers"]
PredictionChoice = Literal["auto", "epsilon", "v"]
PicturePixels = Annotated[int, Field(ge=32, le=4096, multiple_of=8)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)


class ModelConfig(Section):
    base: str = Field(
        min_length=1,
        title="Base model",
        description="A folder in diffusers' layout, a .safetensors checkpoint, a hub id (owner/name), or 'starter'.",
    )
    revision: str | None = Field(default=None, title="Revision", description="Branch, tag or commit of a hub id.")
    vae: str | None = Field(
        default=None,
        title="Other VAE",
        description="A .safetensors file, folder or hub id of a VAE to use in place of the base model's own.",
    )
    clip_skip: int | None = Field(
        default=None,
        ge=1,
        le=24,
        title="CLIP skip",
        description="Layer of the text encoder that is listened to, from its end, as ComfyUI counts: 1 is the last; "
        "absent: the one that the model was made with, 1 for SD 1, 2 for SD 2 and SDXL.",
    )
    prediction: PredictionChoice = Field(
        default="auto", title="Prediction", description="What the base model predicts; auto: as its files say."
    )
    zero_terminal_snr: bool | None = Field(
        default=None,
        title="Zero terminal SNR",
        description="Whether the last timestep of the noise schedule is pure noise; absent: as the model's files say.",
    )
    bits: BaseBits = Field(
        default="as-is",
        title="Bits of the base",
        description="Of the frozen UNet while it trains; int8: a byte a weight, nf4: half of one (needs bitsandbytes).",
    )


class AdapterConfig(Section):
    kind: Kind = Field(
        default="dora",
        title="Kind",
        description="dora: LoRA with a magnitude of its own; lora: without; full: the layers' weights themselves.",
    )
    norm_axis: NormAxis = Field(
        default="input",
        title="DoRA's axis",
        description="One magnitude per input (ComfyUI and Forge render it exactly) or per output (as PEFT).",
    )
    norm_gradient: NormGradient = Field(
        default="detached",
        title="DoRA's gradient",
        description="detached: the norm is a constant in backward (DoRA paper, section 4.3); exact: it is not.",
    )
    rank: int = Field(default=16, ge=1, le=1024, title="Rank", description="Size of the update of each layer.")
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=4096,
        title="Alpha",
        description="The update is scaled by alpha / rank; absent: alpha = rank.",
    )
    conv_rank: int | None = Field(
        default=None, ge=1, le=1024, title="Rank of convolutions", description="Of kernels above 1x1; absent: as rank."
    )
    rank_stabilised: bool = Field(
        default=False,
        title="Rank-stabilised",
        description="Scale by alpha / sqrt(rank) (rsLoRA) instead of alpha / rank.",
    )
    ranks: dict[
        Annotated[str, Field(min_length=1)],
        Annotated[int, Field(ge=1, le=1024)],
    ] = Field(
        default={},
        title="Ranks by layer",
        description='Of layers whose path in the UNet matches a glob, such as "*.attn2.*" = 4; the last match counts.',
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, title="Dropout", description="On the input of the low-rank path.")
    targets: TargetSet = Field(
        default="attention", title="Layers", description="Which layers of the UNet (and text encoder) are adapted."
    )
    include: tuple[str, ...] = Field(
        default=(),
        title="Only layers",
        description="Globs over module paths of the UNet, in place of the set of layers.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), title="Except layers", description="Globs over module paths of the UNet that are left out."
    )
    text_encoder: bool = Field(
        default=False, title="Train the text encoder", description="Adapt the text encoder (both of SDXL) as well."
    )

    @property
    def form(self) -> Form:
        """What the adapter will be to a file."""
        return self.norm_axis if self.kind == "dora" else "full" if self.kind == "full" else None


class TrainConfig(Section):
    steps: int = Field(default=1000, ge=1, le=1_000_000, title="Steps", description="Optimizer steps of the whole run.")
    batch_size: int = Field(
        default=1, ge=1, le=256, title="Batch", description="Pictures that go through the model at once."
    )
    accumulation: int = Field(
        default=1, ge=1, le=256, title="Accumulation", description="Batches whose gradients make up one step."
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, title="Seed", description="Start values, order, noise: all follow from it."
    )
    precision: Precision = Field(
        default="auto",
        title="Precision",
        description="Of the frozen model; auto: bf16 where the card has it, fp32 on a CPU.",
    )
    checkpointing: bool = Field(
        default=False,
        title="Save memory",
        description="Compute activations twice instead of keeping them: slower, smaller.",
    )
    checkpointed: Checkpointed = Field(
        default="all",
        title="Save memory in",
        description="all: every block; transformers: attention blocks alone, which hold most of it; a little faster.",
    )
    channels_last: bool = Field(
        default=False,
        title="Channels last",
        description="Lay pictures out as a card's convolutions like them: faster, the same but for rounding.",
    )
    compile: bool = Field(
        default=False,
        title="Compile",
        description="Of attention blocks: a minute or more at first and at new picture sizes, less at every step.",
    )
    text_encoder_stop: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Text encoder until",
        description="Share of the steps after which it stays as it is.",
    )
    validation_every_steps: int = Field(
        default=100, ge=0, le=1_000_000, title="Validate every", description="Steps between validation losses; 0: none."
    )
    validation_pictures: int = Field(
        default=4, ge=1, le=64, title="Validation pictures", description="How many, with fixed noise and timesteps."
    )
    twin: bool = Field(
        default=False, title="Twin runs", description="Train LoRA and DoRA as a pair that differs in nothing else."
    )


class SampleConfig(Section):
    prompts: tuple[str, ...] = Field(
        default=(),
        max_length=32,
        title="Sample prompts",
        description="Drawn with fixed seeds; none: the prompt of the set.",
    )
    negative: str = Field(default="", title="Negative prompt", description="What samples should not show.")
    every_steps: int = Field(
        default=250,
        ge=0,
        le=1_000_000,
        title="Sample every",
        description="Steps between samples; 0: first and last only.",
    )
    steps: int = Field(default=25, ge=1, le=1000, title="Sampler steps", description="Denoising steps of a sample.")
    guidance: float = Field(
        default=7.0, ge=0, le=50, title="Guidance", description="Strength of the prompt in samples."
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, title="Sample seed", description="Noise that samples start from.")
    size_px: tuple[PicturePixels, PicturePixels] | None = Field(
        default=None, title="Sample size", description="Width and height; absent: a square of the training resolution."
    )


class SaveConfig(Section):
    every_steps: int = Field(
        default=250,
        ge=0,
        le=1_000_000,
        title="Save every",
        description="Steps between checkpoints; 0: at the end only.",
    )
    keep_last: int = Field(default=2, ge=1, le=1000, title="Keep", description="Newest checkpoints that stay on disk.")


class LogConfig(Section):
    """Where numbers and samples go besides the run's own files."""

    tensorboard: bool = Field(
        default=False,
        title="TensorBoard",
        description="Write what TensorBoard shows into the folder tensorboard of the run as well.",
    )
    wandb_project: str | None = Field(
        default=None,
        min_length=1,
        title="W&B project",
        description="Send numbers, settings and samples to this project of Weights & Biases; absent: nothing is sent.",
    )
    wandb_offline: bool = Field(
        default=False,
        title="W&B offline",
        description="Keep what is for Weights & Biases in the run's folder, to be sent later with `wandb sync`.",
    )
