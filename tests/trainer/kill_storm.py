"""``python -m tests.trainer.kill_storm --kills 20``: kill -9 at random moments, resume, compare the bytes."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.trainer.conftest import quick_settings, tiny_pipeline, write_pictures
from tests.trainer.killing import final_adapter, train_in_child
from trainer.checkpoints import CheckpointStore
from trainer.config_io import parse_config
from trainer.run_dir import RunDir

STEPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storm(Path(folder), arguments.kills, random.Random(arguments.seed))


def storm(folder: Path, kills: int, chance: random.Random) -> None:
    """Kill runs `kills` times in all, let each finish, and compare it with a run that nothing disturbed."""
    tiny_pipeline("sd1").save_pretrained(folder / "base")
    pictures = write_pictures(folder / "pictures", [(40, 40), (64, 32), (33, 70)], captions=2)
    settings = quick_settings(folder / "base", pictures)
    settings["train"] |= {"steps": STEPS, "accumulation": 2}
    settings["adapter"] |= {"dropout": 0.1, "text_encoder": True}
    settings["sample"] |= {"every_steps": 3}
    config = parse_config(settings)
    straight = RunDir.create(folder / "runs", config)
    begun = time.monotonic()
    assert train_in_child(straight) == 0
    seconds = time.monotonic() - begun
    print(f"undisturbed: {STEPS} steps in {seconds:.1f} s", flush=True)
    done = 0
    while done < kills:
        run = RunDir.create(folder / "runs", config)
        while done < kills and train_in_child(run, kill_after_seconds=chance.uniform(0, seconds)) != 0:
            done += 1
            newest = CheckpointStore(run.checkpoints_dir, 1).newest()
            print(f"kill {done}: newest checkpoint {newest.step if newest else 'none'}", flush=True)
        assert train_in_child(run) == 0
        same = final_adapter(run, STEPS) == final_adapter(straight, STEPS)
        print(f"finished after {done} kills, adapter {'the same to the byte' if same else 'DIFFERENT'}", flush=True)
        assert same


if __name__ == "__main__":
    main()
