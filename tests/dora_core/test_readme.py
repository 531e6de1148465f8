"""The example in the library's README runs as it stands there, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_plans_injects_trains_exports_and_ejects(tmp_path: Path) -> None:
    readme = (ROOT / "dora_core" / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[0]
    assert len(example.splitlines()) <= 20
    checks = (
        "assert type(model[0]) is nn.Conv2d\nprint(list(layers), all(layer.up.norm() > 0 for layer in layers.values()))"
    )
    run = [sys.executable, "-c", example + checks]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 layers, " in done.stdout
    assert done.stdout.endswith("['0', '3'] True\n")
    assert (tmp_path / "magnitudes.safetensors").exists()
