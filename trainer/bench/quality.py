"""Which kind of adapter learns a style best at which size: LoRA, DoRA and full fine-tuning on the starter.

The protocol:

- Each cell trains on the 16 pictures of `assets/samples/icons3d` by the settings of the preset starter-lora as users
  get them, kind, axis, rank, learning rate, seed and steps apart: 100 steps of 8 pictures, cosine, guidance 3.
- Measured on 12 things that the set does not contain: the loss on their true 3D pictures, at 4 timesteps with fixed
  noise; and each drawn with the noise of its own number, by what the starter's VAE makes of it (`trainer/likeness.py`):
  closeness, 1 - d(drawn, 3D) / d(flat, 3D), lean, (d(drawn, flat) - d(drawn, 3D)) / d(flat, 3D), and the share of
  pictures that are nearer to 3D than to flat, which is the demo's goal.
- The learning rate is chosen per method and rank, by the loss on the things of `assets/samples/selection`, seed 0: from
  three rates, each twice the one before; while the best is the lowest or the highest tried, one beyond it is tried too,
  up to five rates.
- Scores are of `assets/samples/held-out`, on which nothing is chosen: three other seeds, mean and standard deviation.
- Floor: the base model. Ceiling: the true 3D pictures through the VAE.

Measures, things and seeds were fixed before any result was seen. How the rate is chosen was not: at first it was by
closeness, and for all ranks at rank 4. That chose a rate at which things come out torn, as pictures of the selection
show, and at which LoRA of rank 2 is nearly what it began as. `assets/README.md` has that table, too.

Every cell is a JSON file of its own, under a hash of all that it depends on: what was killed goes on from there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dora_core.spec import Kind, NormAxis
from trainer.bench.quality_cells import Score, Studio, Things
from trainer.bench.report import Cell, Column, Table
from trainer.home import Home

TRIAL_SEED = 0


@dataclass(frozen=True)
class Method:
    title: str
    kind: Kind
    axis: NormAxis = "input"
    first_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)


METHODS = (
    Method("LoRA", "lora"),
    Method("DoRA, input axis", "dora", "input"),
    Method("DoRA, output axis", "dora", "output"),
    Method("full fine-tune", "full", first_rates=(1e-4, 2e-4, 4e-4)),
)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    steps: int = 100
    ranks: tuple[int, ...] = (2, 4, 8)
    seeds: tuple[int, ...] = (1, 2, 3)
    most_rates: int = 5
    pictures: int = 12
    settings: tuple[str, ...] = ()


QUICK = Scale(1, ranks=(2,), seeds=(1,), most_rates=1, pictures=1, settings=("sample.steps=1",))

Measure = Callable[[Method, int, float, int, Things], Score]  # rank (0: full), learning rate, seed


def measure_quality(scale: Scale) -> Iterator[Table]:
    """The table of the rates that were tried, then the table of scores."""
    studio = Studio.open(Home.find(), scale.pictures)

    def measure(method: Method, rank: int, rate: float, seed: int, things: Things) -> Score:
        chosen = (f"kind={method.kind}", f"norm_axis={method.axis}", f"rank={rank or 4}")  # which full passes over
        others = (f"optim.learning_rate={rate}", f"train.seed={seed}", f"train.steps={scale.steps}")
        return studio.score(things, (*(f"adapter.{one}" for one in chosen), *others, *scale.settings))

    sizes = [(method, rank) for method in METHODS for rank in (scale.ranks if method.kind != "full" else (0,))]
    trials = {size: try_rates(*size, scale, measure) for size in sizes}
    yield trials_table(scale, trials)
    yield scores_table(scale, {size: best_rate(tried) for size, tried in trials.items()}, studio, measure)


def try_rates(method: Method, rank: int, scale: Scale, measure: Measure) -> dict[float, Score]:
    """Scores on the selection, by rate."""
    tried: dict[float, Score] = {}
    wanted = list(method.first_rates[: scale.most_rates])
    while wanted:
        rate = wanted.pop(0)
        tried[rate] = measure(method, rank, rate, TRIAL_SEED, "selection")
        if not wanted and len(tried) < scale.most_rates:
            wanted += rate_beyond(tried)
    return dict(sorted(tried.items()))


def rate_beyond(tried: Mapping[float, Score]) -> list[float]:
    """One beyond the best, where that is at an end of those tried."""
    best = best_rate(tried)
    if best == max(tried):
        return [2 * best]
    return [best / 2] if best == min(tried) else []


def best_rate(tried: Mapping[float, Score]) -> float:
    return min(tried, key=lambda rate: tried[rate].loss)


def trials_table(scale: Scale, trials: Mapping[tuple[Method, int], Mapping[float, Score]]) -> Table:
    title = f"Learning rates: seed {TRIAL_SEED}, {scale.steps} steps, things of the selection"
    rows = [
        (method.title, _shown(rank), f"{rate:g}", *_figures([score]))
        for (method, rank), tried in trials.items()
        for rate, score in tried.items()
    ]
    return Table(title, (Column("method"), Column("rank"), Column("learning rate"), *_SCORES), tuple(rows))


def scores_table(scale: Scale, rates: Mapping[tuple[Method, int], float], studio: Studio, measure: Measure) -> Table:
    seeds = ", ".join(map(str, scale.seeds))
    title = f"Held-out things: mean and standard deviation over seeds {seeds}, {scale.steps} steps"
    rows: list[tuple[Cell, ...]] = [("base model (floor)", "", "", "", *_figures([studio.floor("held-out")]))]
    for (method, rank), rate in rates.items():
        scores = [measure(method, rank, rate, seed, "held-out") for seed in scale.seeds]
        rows.append((method.title, _shown(rank), f"{scores[0].parameters:,}", f"{rate:g}", *_figures(scores)))
    rows.append(("true 3D pictures through the VAE (ceiling)", "", "", "", *_figures([studio.ceiling("held-out")])))
    heads = (Column("method"), Column("rank"), Column("parameters"), Column("learning rate"))
    return Table(title, (*heads, *_SCORES), tuple(rows))


def _shown(rank: int) -> str:
    return str(rank) if rank else "full"


_SCORES = (Column("closeness"), Column("lean"), Column("nearer to 3D, %"), Column("loss on true 3D"))


def _figures(scores: Sequence[Score]) -> tuple[str, ...]:
    return (
        _spread([score.closeness for score in scores], ".3f"),
        _spread([score.lean for score in scores], ".3f"),
        _spread([100 * score.nearer for score in scores], ".0f"),
        _spread([score.loss for score in scores if not math.isnan(score.loss)], ".4f"),
    )


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    mean = format(statistics.fmean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form}}"
