"""What to change in a run that does not fit into memory: its own settings, with what they are now. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

from trainer.config import RunConfig
from trainer.config_io import config_from
from trainer.failures import ExplainedError, classify

SMALL_PX, SMALL_RANK = 512, 8


FREE = {"train.checkpointing", "train.checkpointed"}  # what a run may change on its way


@dataclass(frozen=True)
class Change:
    """Settings that would make a run smaller: their values by dotted key, and the same as a request."""

    sentence: str
    values: Mapping[str, object]

    @property
    def is_free(self) -> bool:
        return self.values.keys() <= FREE

    def made(self, config: RunConfig) -> RunConfig:
        overrides = [f"{key}={_written(value)}" for key, value in self.values.items()]
        return config_from(config.model_dump(mode="json", exclude_none=True), overrides)


class TooLargeError(ExplainedError):
    """The run does not fit into the memory of the card or of the computer."""

    category = "out of memory"


@contextmanager
def memory_explained(config: RunConfig) -> Iterator[None]:
    """Raises TooLargeError, with the run's own settings in the fix, for any error that is a lack of memory."""
    try:
        yield
    except Exception as error:
        failure = classify(error)
        if failure.category != TooLargeError.category:
            raise
        raise TooLargeError(failure.sentence, advice(config)) from error


def advice(config: RunConfig) -> str:
    """All that would help, as sentences; what costs least comes first."""
    sentences = ["Close what else uses the memory."]
    changes = smaller_settings(config)
    on_the_way = [change for change in changes if change.is_free]
    others = [change.sentence for change in changes if not change.is_free]
    if on_the_way:
        sentences.append(f"In the run's run.toml {on_the_way[0].sentence}, then resume.")
    sentences.append(f"In a new run {', '.join(others)}." if others else "Or choose a smaller base model.")
    return " ".join(sentences)


def smaller_settings(config: RunConfig) -> list[Change]:
    """What could be smaller, cheapest first."""
    train, side, rank = config.train, config.data.resolution_px, config.adapter.rank
    is_full = config.adapter.kind == "full"
    pictures = {"train.batch_size": 1, "train.accumulation": config.pictures_per_step}
    rows = [
        (not train.checkpointing, {"train.checkpointing": True}),
        (train.checkpointed != "all", {"train.checkpointed": "all"}),
        (train.batch_size > 1, pictures),
        (train.precision == "fp32", {"train.precision": "bf16"}),
        (config.model.bits == "as-is" and not is_full, {"train.checkpointing": True, "model.bits": "int8"}),
        (side > SMALL_PX, {"data.resolution_px": SMALL_PX}),
        (config.adapter.text_encoder, {"adapter.text_encoder": False}),
        (is_full, {"adapter.kind": "dora"}),
        (rank > SMALL_RANK and not is_full, {"adapter.rank": SMALL_RANK}),
    ]
    return [change_of(config, values) for helps, values in rows if helps]


def change_of(config: RunConfig, values: Mapping[str, object]) -> Change:
    """Of those values that are not so already."""
    values = {key: value for key, value in values.items() if attrgetter(key)(config) != value}
    now = [_written(attrgetter(key)(config)) for key in values]
    wanted = " and ".join(f"{key} to {_written(value)}" for key, value in values.items())
    told = f"it is {now[0]}" if len(now) == 1 else f"they are {' and '.join(now)}"
    return Change(f"set {wanted} ({told})", values)


def ways_to_fit(config: RunConfig, peak_of: Callable[[RunConfig], int], room_bytes: int) -> list[tuple[Change, int]]:
    """Changes that together bring the peak below `room_bytes`, if any do, and what each saves, 1 MiB or more."""
    ways: list[tuple[Change, int]] = []
    peak = peak_of(config)
    if peak > room_bytes and not config.train.checkpointing:  # where part of it is enough, that costs less time
        half = change_of(config, {"train.checkpointing": True, "train.checkpointed": "transformers"})
        if (less := peak_of(half.made(config))) <= room_bytes:
            return [(half, peak - less)]
    for each in smaller_settings(config):
        if peak <= room_bytes:
            break
        change = change_of(config, each.values)
        less = peak_of(changed := change.made(config))
        if peak - less >= 2**20:
            ways.append((change, peak - less))
            config, peak = changed, less
    return ways


def _written(value: object) -> str:
    """As in a settings file."""
    return str(value).lower() if isinstance(value, bool) else str(value)
