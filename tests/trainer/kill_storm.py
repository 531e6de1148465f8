"""``python -m tests.trainer.kill_storm --kills 20``: kill -9 at random moments, resume, compare the bytes.

Half of the kills wait for a step, most others for the saving of a checkpoint, for samples or for the export, each to
strike at a random moment within; the rest strike while the run starts.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.trainer.conftest import quick_settings, tiny_pipeline, write_pictures
from tests.trainer.killing import final_adapter, train_in_child
from trainer.checkpoints import CheckpointStore
from trainer.config import RunConfig
from trainer.config_io import parse_config
from trainer.events import Phase, read_events, read_metrics
from trainer.run_dir import RunDir

STEPS = 12
# What a kill waits for, and how often: a step; one of the short phases; nothing, which is the start.
AIMS = {"step": 0.5, "saving": 0.15, "sampling": 0.1, "exporting": 0.15, "start": 0.1}
START = {"starting", "checking", "loading", "class pictures", "caching"}


@dataclass
class Kill:
    """Due some time after its aim was seen for the `count`-th time since this process began."""

    run: RunDir
    aim: str
    count: int
    delay_seconds: float

    def __post_init__(self) -> None:
        self.from_event = read_events(self.run.events_file)[1]
        self.from_row = read_metrics(self.run.metrics_file)[1]
        self.seen_at = time.monotonic() if self.aim == "start" else None

    def is_due(self) -> bool:
        if self.seen_at is None and self._times_seen() >= self.count:
            self.seen_at = time.monotonic()
        return self.seen_at is not None and time.monotonic() - self.seen_at >= self.delay_seconds

    def _times_seen(self) -> int:
        if self.aim == "step":
            return len(read_metrics(self.run.metrics_file, self.from_row)[0])
        return self._phases().count(self.aim)

    @property
    def struck(self) -> str:
        """The phase that the process was in when it died."""
        return ["starting", *self._phases()][-1]

    def _phases(self) -> list[str]:
        events = read_events(self.run.events_file, self.from_event)[0]
        return [event.name for event in events if isinstance(event, Phase)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storm(Path(folder), arguments.kills, random.Random(arguments.seed))


def storm(folder: Path, kills: int, chance: random.Random) -> None:
    """Kill runs `kills` times in all, let each finish, and compare it with a run that nothing disturbed."""
    config = demanding_config(folder)
    straight = RunDir.create(folder / "runs", config)
    assert train_in_child(straight) == 0
    phases = phase_seconds(straight)
    print(f"undisturbed: {STEPS} steps;", *(f"{name} {len(t)}x {median(t):.3f} s" for name, t in phases.items()))
    struck: Counter[str] = Counter()
    while struck.total() < kills:
        run = RunDir.create(folder / "runs", config)
        while struck.total() < kills:
            aim = chance.choices(list(AIMS), list(AIMS.values()))[0]
            kill = Kill(
                run, aim, chance.randint(1, (len(phases[aim]) + 1) // 2), chance.uniform(0, median(phases[aim]))
            )
            if train_in_child(run, kill_when=kill.is_due) == 0:
                break
            step = max((row.step for row in read_metrics(run.metrics_file)[0]), default=0)
            struck["start" if kill.struck in START else kill.struck if step else "before the first step"] += 1
            newest = CheckpointStore(run.checkpoints_dir, 1).newest()
            saved = f"newest checkpoint {newest.step}" if newest else "no checkpoint yet"
            print(f"kill {struck.total()}: while {kill.struck}, step {step}, {saved}", flush=True)
        assert train_in_child(run) == 0
        is_same = outcome(run) == outcome(straight)
        print(f"finished after {struck.total()} kills: files {'the same to the byte' if is_same else 'DIFFERENT'}")
        assert is_same
    print(f"{kills} kills:", ", ".join(f"{count} {name}" for name, count in struck.most_common()))


def demanding_config(folder: Path) -> RunConfig:
    """With all that could break exactness: dropout, accumulation, a text encoder, samples in between."""
    tiny_pipeline("sd1").save_pretrained(folder / "base")
    pictures = write_pictures(folder / "pictures", [(40, 40), (64, 32), (33, 70)], captions=2)
    settings = quick_settings(folder / "base", pictures)
    settings["train"] |= {"steps": STEPS, "accumulation": 2}
    settings["adapter"] |= {"dropout": 0.1, "text_encoder": True}
    settings["sample"] |= {"every_steps": 3}
    settings["save"] |= {"every_steps": 2}
    return parse_config(settings)


def phase_seconds(run: RunDir) -> dict[str, list[float]]:
    """How long each phase took, each time; by aims."""
    events = read_events(run.events_file)[0]
    steps = read_metrics(run.metrics_file)[0]
    ends = [(event, after.at) for event, after in pairwise(events) if isinstance(event, Phase)]
    seconds = {aim: [end - event.at for event, end in ends if event.name == aim] for aim in AIMS}
    return seconds | {"start": [steps[0].at - events[0].at], "step": [row.seconds for row in steps]}


def outcome(run: RunDir) -> tuple[bytes, ...]:
    return final_adapter(run, STEPS), *(file.read_bytes() for file in sorted(run.exports_dir.glob("*.safetensors")))


if __name__ == "__main__":
    main()
