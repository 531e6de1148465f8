"""``python -m tests.trainer.reader_storm --readers 6 --steps 100``: processes that read a run while it is written.

Each reads all of it, over and over: status, events and metrics by offset, checkpoints with their hashes, samples with
their pictures, exports with their reports. A file that is half there, or one that was there and does not fit, is torn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.trainer.conftest import quick_settings, tiny_pipeline, write_pictures
from tests.trainer.killing import train_in_child
from trainer.checkpoints import CheckpointStore
from trainer.config_io import parse_config
from trainer.events import Event, StepMetrics, read_events, read_metrics
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.status import RunStatus
from trainer.store import Store


class Reader:
    """Reads a run directory as a page would, and notes what it read, by kind, and what was torn."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.store = Store(Home(run.path.parent.parent))
        self.read: Counter[str] = Counter()
        self.torn: list[str] = []
        self.events: list[Event] = []
        self.rows: list[StepMetrics] = []
        self.statuses: list[RunStatus] = []
        self.saved_step = 0
        self._offsets = [0, 0]

    def read_all(self) -> None:
        self.statuses.append(self.store.status(self.run))
        events, self._offsets[0] = read_events(self.run.events_file, self._offsets[0])
        rows, self._offsets[1] = read_metrics(self.run.metrics_file, self._offsets[1])
        self.events += events
        self.rows += rows
        newest = CheckpointStore(self.run.checkpoints_dir, 1).newest()
        step = newest.step if newest else 0
        if step < self.saved_step:
            self.torn.append(f"the newest checkpoint was {self.saved_step} and is {step}")
        self.saved_step = step
        for folder in self.run.samples_dir.glob("[!.]*"):
            self._whole(folder, self._samples)
        for file in self.run.exports_dir.glob("[!.]*.safetensors"):
            self._whole(file, self._export)
        if self.run.environment_file.exists():
            self._whole(self.run.environment_file, lambda file: json.loads(file.read_bytes()))
        self.read.update(["status", "events", "metrics", "checkpoints"])

    def _whole(self, path: Path, read: Callable[[Path], object]) -> None:
        before = _inode(path)
        try:
            read(path)
        except (OSError, ValueError, SyntaxError, AssertionError) as error:
            if before == _inode(path):  # else another took its place meanwhile
                self.torn.append(f"{path.name}: {error!r}")
        else:
            self.read[path.suffix or path.parent.name] += 1

    def _samples(self, folder: Path) -> None:
        for row in json.loads((folder / "samples.json").read_bytes()):
            Image.open(folder / row["file"]).load()

    def _export(self, file: Path) -> None:
        report = json.loads(file.with_suffix(".parity.json").read_bytes())
        assert report["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()

    def check(self) -> None:
        """Nothing was torn, every line was read once and in order, and the status never went back."""
        assert self.torn == []
        assert self.events == read_events(self.run.events_file)[0]
        assert self.rows == read_metrics(self.run.metrics_file)[0]
        assert len(self.events) == self.run.events_file.read_bytes().count(b"\n")
        assert len(self.rows) == self.run.metrics_file.read_bytes().count(b"\n")
        # Between the last event and the end of its process a run looks like one that is about to begin.
        steps = [status.step for status in self.statuses if status.state != "preparing"]
        assert steps == sorted(steps)
        states = [status.state for status in self.statuses]
        assert (states[0], states[-1]) == ("new", "finished")
        assert not {"interrupted", "failed"} & set(states)


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storm(Path(folder), arguments.readers, arguments.steps)


def storm(folder: Path, readers: int, steps: int) -> None:
    tiny_pipeline("sd1").save_pretrained(folder / "base")
    pictures = write_pictures(folder / "pictures", [(40, 40), (64, 32), (33, 70)], captions=2)
    settings = quick_settings(folder / "base", pictures)
    settings["train"] |= {"steps": steps}
    settings["sample"] |= {"every_steps": 2}
    settings["save"] |= {"keep_last": 2}
    run = RunDir.create(folder / "runs", parse_config(settings))
    processes = multiprocessing.get_context("fork")
    with processes.Pool(readers) as pool:
        results = pool.map_async(read_to_the_end, [run] * readers)
        assert train_in_child(run) == 0
        for number, (read, torn) in enumerate(results.get(), start=1):
            print(f"reader {number}: {dict(read)}, torn: {torn or 'nothing'}", flush=True)
    print(f"{steps} steps, {run.events_file.stat().st_size} bytes of events")


def read_to_the_end(run: RunDir) -> tuple[Counter[str], list[str]]:
    reader = Reader(run)
    while not reader.statuses or reader.statuses[-1].state != "finished":
        reader.read_all()
    reader.read_all()
    reader.check()
    return reader.read, reader.torn


if __name__ == "__main__":
    main()
