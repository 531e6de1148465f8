"""What to change in a run that does not fit into memory: its own settings, with what they are now. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.config import RunConfig
from trainer.failures import ExplainedError, classify

SMALL_PX, SMALL_RANK = 512, 8


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
    others = smaller_settings(config)
    if not config.train.checkpointing:  # the only one that a run may change on its way
        sentences.append(f"In the run's run.toml {others.pop(0)}, then resume.")
    sentences.append(f"In a new run {', '.join(others)}." if others else "Or choose a smaller base model.")
    return " ".join(sentences)


def smaller_settings(config: RunConfig) -> list[str]:
    """What could be smaller, cheapest first."""
    train, side, rank = config.train, config.data.resolution_px, config.adapter.rank
    batches = f"(they are {train.batch_size} and {train.accumulation})"
    changes = {
        "set train.checkpointing to true (it is false)": not train.checkpointing,
        f"set train.batch_size to 1 and train.accumulation to {config.pictures_per_step} {batches}": (
            train.batch_size > 1
        ),
        "set train.precision to bf16 (it is fp32)": train.precision == "fp32",
        f"set data.resolution_px to {SMALL_PX} (it is {side})": side > SMALL_PX,
        "set adapter.text_encoder to false (it is true)": config.adapter.text_encoder,
        "set adapter.kind to dora (it is full)": config.adapter.kind == "full",
        f"set adapter.rank to {SMALL_RANK} (it is {rank})": rank > SMALL_RANK and config.adapter.kind != "full",
    }
    return [change for change, helps in changes.items() if helps]
