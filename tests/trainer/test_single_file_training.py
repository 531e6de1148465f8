"""Single checkpoints from the first step to the exported file, and the memory that it took beside the plan's figure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomlkit

from tests.trainer.checkpoint_file import write_checkpoint
from tests.trainer.conftest import FAMILY_NAMES, quick_settings, write_pictures
from tests.trainer.full_size import write_random_sd15
from trainer.config_io import load_config
from trainer.plan import plan

ROOT = Path(__file__).parents[2]
MIB = 2**20
# In a process of its own: what it held at its worst moment is the system's figure for all of its life.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import psutil
from trainer.quiet import quiet_libraries
from trainer.session import run_training
quiet_libraries()
from trainer.config_io import load_config
from trainer.events import Exported, read_events
from trainer.run_dir import RunDir
from trainer.watch import Watch  # the last of what is imported
before = psutil.Process().memory_info().rss  # getrusage would tell of the process that started this one
run = RunDir.create(Path(sys.argv[1]).parent / "runs", load_config(Path(sys.argv[1])))
ending = run_training(run)
files = [str(run.path / event.file) for event in read_events(run.events_file)[0] if isinstance(event, Exported)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"ending": ending, "files": files, "libraries": before, "peak": peak}))
"""


def trained_in_a_process(base: Path, folder: Path, side_px: int) -> None:
    """Two steps and an export; prints both figures."""
    values = quick_settings(base, write_pictures(folder / "pictures", [(side_px, side_px)] * 2))
    values["data"]["resolution_px"] = side_px
    values["train"]["steps"] = 2
    values["save"]["every_steps"] = 0
    values["sample"]["size_px"] = [side_px, side_px]
    config = folder / "run.toml"
    config.write_text(tomlkit.dumps(values))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(config)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ending"] == "finished"
    assert [Path(file).is_file() for file in told["files"]] == [True]
    planned = plan(load_config(config)).memory
    assert planned is not None
    sizes = (planned.peak_bytes, told["peak"] - told["libraries"], told["libraries"])
    words = "planned {:,.0f} MiB, measured {:,.0f} MiB, and libraries {:,.0f} MiB".format(*(n / MIB for n in sizes))
    print(f"\n{base.name} at {side_px} px: {words}")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_small_model_of_each_family_trains_from_one_file(
    family: str, tmp_path: Path, tiny_base: Callable[[str], Path]
) -> None:
    file = tmp_path / f"{family}.safetensors"
    write_checkpoint(family, tiny_base(family), file)
    trained_in_a_process(file, tmp_path, 32)


@pytest.mark.slow
def test_a_model_of_the_size_of_sd15_trains_from_one_file_with_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "random sd15.safetensors"
    write_random_sd15(file)
    assert 1900 < file.stat().st_size / MIB < 2200
    trained_in_a_process(file, tmp_path, 256)
