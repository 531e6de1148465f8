"""A home with real runs in it: a twin trained on the starter for a few steps, and a comparison of the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.studio import Studio
from trainer.config import RunConfig
from trainer.config_io import parse_config
from trainer.home import Home
from trainer.run_dir import RunDir
from trainer.twins import create_runs

ROOT = Path(__file__).parent.parent.parent
EVIL = '<img src=x onerror=alert(1)> ${alert(1)} {{x}} & "quotes"'


@dataclass(frozen=True)
class TwinHome:
    """`lora` and `dora` have finished; `folder` is the comparison of the two."""

    path: Path
    lora: RunDir
    dora: RunDir
    folder: Path

    @property
    def studio(self) -> Studio:
        return Studio(Home(self.path))

    def at(self, path: Path) -> TwinHome:
        """The same in a copy."""
        lora, dora = (RunDir(path / "runs" / run.id) for run in (self.lora, self.dora))
        return TwinHome(path, lora, dora, path / self.folder.relative_to(self.path))


def make_twin_home(path: Path, config: RunConfig | None = None) -> TwinHome:
    """As `config` has it, else as quickly as possible."""
    from trainer.compare.comparison import compare  # noqa: PLC0415 - loads torch, which few tests of the page need
    from trainer.compare.request import Request  # noqa: PLC0415
    from trainer.session import run_training  # noqa: PLC0415

    home = Home(path)
    lora, dora = create_runs(config or parse_config(_settings()), home.runs)
    for run in (lora, dora):
        run_training(run)
    folder = compare(Request(sources=(lora.id, dora.id)), Studio(home).store)
    return TwinHome(path, lora, dora, folder)


def _settings() -> dict[str, object]:
    return {
        "name": "Icons <b>3D</b>",
        "model": {"base": "starter"},
        "data": {
            "folder": str(ROOT / "assets" / "samples" / "icons3d"),
            "resolution_px": 64,
            "bucket_step_px": 8,
            "smallest_side_px": 32,
        },
        "adapter": {"rank": 2},
        "optim": {"learning_rate": 1e-2},
        "train": {"steps": 4, "batch_size": 2, "twin": True, "validation_every_steps": 2, "validation_pictures": 1},
        "sample": {"prompts": ["a worm, 3d style", EVIL], "steps": 4, "guidance": 2.0, "every_steps": 0},
        "save": {"every_steps": 2},
    }
