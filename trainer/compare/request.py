"""What a comparison is asked for: the same words on the command line, in a job, and in the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trainer.config_sections import PicturePixels
from trainer.failures import ExplainedError

MAX_CELLS = 400  # pictures of one comparison: at half a minute each on a card, a night

Strength = Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)]


class RequestError(ExplainedError):
    """A comparison that cannot be drawn as it was asked for."""

    category = "bad settings"


class Request(BaseModel):
    """What is drawn with what. Empty: as the first run's samples are drawn; None: likewise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = Field(min_length=1, description="runs, RUN@STEP, adapter files")
    base: str | None = None
    strengths: tuple[Strength, ...] = Field(default=(1.0,), min_length=1)
    prompts: tuple[str, ...] = ()
    negative: str | None = None
    seeds: tuple[Seed, ...] = Field(default=(), description="each with every prompt; none: one of its own per prompt")
    steps: tuple[Steps, ...] = ()
    guidance: tuple[Guidance, ...] = ()
    size_px: tuple[PicturePixels, PicturePixels] | None = None

    @field_validator("strengths", "prompts", "seeds", "steps", "guidance")
    @classmethod
    def _each_once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(dict.fromkeys(values))

    def command(self, sources: tuple[str, ...]) -> str:
        """The command line that draws it again, with these names of the sources."""
        options: dict[str, tuple[object, ...]] = {
            "--base": () if self.base is None else (self.base,),
            "--strength": self.strengths if self.strengths != (1.0,) else (),
            "--prompt": self.prompts,
            "--negative": () if self.negative is None else (self.negative,),
            "--seed": self.seeds,
            "--steps": self.steps,
            "--guidance": self.guidance,
        }
        words = ["dora-studio", "compare"]
        words += [f"{name}={_word(value)}" for name, values in options.items() for value in values]
        words += [] if self.size_px is None else ["--size", *map(str, self.size_px)]
        return shlex.join([*words, "--", *sources])


def check_count(rows: int, columns: int) -> None:
    """Raises RequestError for more pictures than anybody wants to wait for."""
    if rows * columns > MAX_CELLS:
        raise RequestError(
            f"That would be {rows * columns} pictures, {rows} rows by {columns} columns; the limit is {MAX_CELLS}.",
            "Take fewer prompts, seeds, steps, guidances, strengths or adapters at once.",
        )


def _word(value: object) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def parse_request(values: Mapping[str, object]) -> Request:
    """Raises RequestError with every value at fault."""
    try:
        return Request.model_validate(values)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))} is {e['input']!r}: {e['msg'].lower()}" for e in error.errors()]
        raise RequestError(
            f"This comparison cannot be drawn. {'; '.join(told)}.", "`dora-studio compare --help` has what is possible."
        ) from error
