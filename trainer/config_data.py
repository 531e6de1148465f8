"""The settings of pictures and captions: what every image set has, and what they have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.config_sections import PicturePixels, Section

CaptionSource = Literal["file", "name", "prompt"]
Role = Literal["train", "prior-prediction"]
CacheKind = Literal["disk", "memory"]
ALPHA = "alpha"  # in place of a folder of masks


class MaskConfig(Section):
    """Masked loss: only a part of each picture counts."""

    source: str = Field(
        min_length=1,
        title="Masks",
        description="alpha: what is not transparent counts; else a folder of masks named like pictures, white counts.",
    )
    unmasked_weight: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Weight outside",
        description="Of what the mask leaves out, beside 1 for the rest.",
    )


class CaptionOptions(Section):
    """What is made of the caption that a picture has, at every step anew."""

    trigger: str = Field(
        default="", title="Trigger words", description="Put before every caption that does not have them, with a comma."
    )
    wildcards: bool = Field(
        default=False,
        title="Wildcards",
        description="Of words in braces with bars between them one is taken by chance.",
    )
    shuffle_tags: bool = Field(
        default=False, title="Shuffle tags", description="What stands between commas comes in an order of chance."
    )
    tag_dropout: float = Field(
        default=0.0, ge=0, le=1, title="Tag dropout", description="How likely each tag between commas is left out."
    )
    keep_tags: int = Field(
        default=0, ge=0, le=100, title="Keep tags", description="So many first tags are neither shuffled nor left out."
    )
    caption_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Caption dropout",
        description="How likely a whole caption is left out, trigger too.",
    )

    @model_validator(mode="after")
    def _kept_tags_need_tags_that_change(self) -> CaptionOptions:
        if self.keep_tags and not (self.shuffle_tags or self.tag_dropout):
            raise ValueError(
                f"keep_tags is {self.keep_tags}, but tags stay as they are: set shuffle_tags or tag_dropout, or take "
                "keep_tags out"
            )
        return self


class PictureOptions(Section):
    """A folder of pictures and how they are shown."""

    folder: Path = Field(title="Pictures", description="The folder of pictures, captions beside them.")
    instance_prompt: str = Field(
        default="",
        title="Prompt of the set",
        description="What every picture without a caption file of its own is called.",
    )
    caption_source: CaptionSource = Field(
        default="file",
        title="Captions from",
        description="The file beside each picture or metadata.jsonl; the picture's own name; or the prompt of the set.",
    )
    repeats: int = Field(
        default=1, ge=1, le=1000, title="Repeats", description="How often a pass shows each picture of this set."
    )
    weight: float = Field(
        default=1.0, gt=0, le=10, title="Weight", description="Of this set's loss beside the others'."
    )
    flip: bool = Field(
        default=False, title="Mirror", description="Show half of the pictures mirrored; not for faces or writing."
    )
    crop_jitter: bool = Field(
        default=False,
        title="Vary the cut",
        description="Cut at one of five places along the longer side, by chance, instead of the middle.",
    )
    mask: MaskConfig | None = Field(
        default=None, title="Masked loss", description="Learn from a part of each picture only; absent: from all of it."
    )


class ImageSetConfig(CaptionOptions, PictureOptions):
    """A set of pictures; pydantic lists the fields of the last base first."""


class MoreImagesConfig(ImageSetConfig):
    """A set beside the first one."""

    role: Role = Field(
        default="train",
        title="Role",
        description="train: learned; prior-prediction: what the base model makes of these pictures shall stay.",
    )


class PriorConfig(Section):
    """Prior preservation: pictures of the class, made by the base model, keep it from forgetting the class."""

    class_prompt: str = Field(
        min_length=1, title="Class prompt", description="What the subject is one of, such as 'a dog'."
    )
    count: int = Field(
        default=100,
        ge=1,
        le=10_000,
        title="Class pictures",
        description="How many there should be; missing ones are generated.",
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=10,
        title="Weight of the class",
        description="Of the class pictures' loss beside the subject's.",
    )
    folder: Path | None = Field(
        default=None,
        title="Class folder",
        description="Where class pictures lie or are put; absent: one of this base model and prompt, shared by runs.",
    )


class DataConfig(ImageSetConfig):
    """The first set, and what all sets have in common."""

    more: tuple[MoreImagesConfig, ...] = Field(
        default=(),
        max_length=32,
        title="More sets",
        description='Each such as {folder = "more", repeats = 2}, with whatever the first set can have; with '
        'role = "prior-prediction" what the base model makes of them shall stay.',
    )
    resolution_px: PicturePixels = Field(
        default=512,
        title="Resolution",
        description="Side of a square with as many pixels as a training picture has, about.",
    )
    bucket_step_px: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = Field(
        default=64, title="Bucket step", description="Training pictures' sides are multiples of this."
    )
    bucket_ratio: float = Field(
        default=2.0, ge=1, le=4, title="Longest bucket", description="Longest side by shortest; 1: squares only."
    )
    smallest_side_px: int = Field(
        default=64,
        ge=1,
        le=4096,
        title="Smallest side",
        description="Pictures with a shorter side are left out, by name.",
    )
    longest_ratio: float = Field(
        default=4.0,
        ge=1,
        le=100,
        title="Longest picture",
        description="Pictures longer than this for their width are left out.",
    )
    background: str = Field(
        default="#ffffff",
        pattern="^#[0-9a-fA-F]{6}$",
        title="Background",
        description="Colour below transparent pictures, as #rrggbb.",
    )
    cache: CacheKind = Field(
        default="disk",
        title="Cache",
        description="disk: prepared pictures and captions serve later runs too; memory: nothing of them is written.",
    )
    prior: PriorConfig | None = Field(
        default=None, title="Prior preservation", description="Class pictures that are trained along; absent: none."
    )

    @property
    def trained(self) -> tuple[ImageSetConfig, ...]:
        return (self, *(one for one in self.more if one.role == "train"))

    @property
    def kept(self) -> tuple[ImageSetConfig, ...]:
        """Sets on which the base model's own prediction is the target."""
        return tuple(one for one in self.more if one.role == "prior-prediction")
