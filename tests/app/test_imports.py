"""The page in a process of its own: what it loads, and what it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUILD = """
import sys
from pathlib import Path
from app.server import build_server, listening
from app.studio import Studio
from trainer.home import Home
build_server(Studio(Home(Path(sys.argv[1]))), listening(None, 1, False, (), None))
print(*sorted({"torch", "diffusers", "accelerate"} & set(sys.modules)))
"""


def test_the_whole_page_is_built_without_torch(tmp_path: Path) -> None:
    before = set(ROOT.glob("app/**/*.pyi"))
    run = [sys.executable, "-c", BUILD, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert set(ROOT.glob("app/**/*.pyi")) == before  # Gradio writes some beside classes that are derived from its own
