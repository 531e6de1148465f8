"""``python -m tests.trainer.within_memory FIRST RUN MIB``: train FIRST, then RUN with so much more memory and no more.

A process of its own, since one that did much before has memory to give away that no limit counts; FIRST loads whatever
every training needs. Its threads share one heap: else each that begins reserves addresses (64 MiB in glibc), and the
limit is one on addresses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainer.run_dir import RunDir
from trainer.session import run_training

ROOT = Path(__file__).parents[2]


def train_within(first: RunDir, run: RunDir, mib: int) -> int:
    """Its exit code."""
    command = [sys.executable, "-m", "tests.trainer.within_memory", str(first.path), str(run.path), str(mib)]
    surroundings = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, check=False).returncode


def main(first: str, run: str, mib: str) -> None:
    run_training(RunDir(Path(first)))
    import resource  # noqa: PLC0415 - POSIX only

    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    limit = int(line.split()[1]) * 2**10 + int(mib) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    run_training(RunDir(Path(run)))


if __name__ == "__main__":
    main(*sys.argv[1:])
