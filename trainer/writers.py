"""Where the rows and samples of a run go besides its own files: TensorBoard, Weights & Biases. Both are optional.

Nothing is imported and no request leaves the machine unless the settings ask for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from trainer.config import RunConfig
from trainer.events import StepMetrics
from trainer.losses import BANDS, ByBand
from trainer.run_dir import RunDir


class Writer(Protocol):
    name: str

    def write(self, row: StepMetrics) -> None: ...

    def show(self, step: int, samples: Path) -> None:
        """`samples`: the folder of a step's samples."""
        ...

    def close(self, failed: bool) -> None: ...


class Writers:
    """All that a run has. One that fails is told once, and left alone from then on; training goes on."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.open: list[Writer] = []

    def add(self, name: str, make: Callable[[], Writer]) -> None:
        try:
            self.open.append(make())
        except Exception as error:  # noqa: BLE001 - foreign code, the network and the disk
            self._tell(name, error)

    def write(self, row: StepMetrics) -> None:
        self._each(lambda writer: writer.write(row))

    def show(self, step: int, samples: Path) -> None:
        self._each(lambda writer: writer.show(step, samples))

    def close(self, failed: bool) -> None:
        self._each(lambda writer: writer.close(failed))

    def _each(self, act: Callable[[Writer], None]) -> None:
        for writer in list(self.open):
            try:
                act(writer)
            except Exception as error:  # noqa: BLE001 - as above
                self.open.remove(writer)
                self._tell(writer.name, error)

    def _tell(self, name: str, error: Exception) -> None:
        self.warn(f"{name} failed and is left out from here on, training goes on: {type(error).__name__}: {error}")


@contextmanager
def open_writers(run: RunDir, config: RunConfig, first_step: int, warn: Callable[[str], None]) -> Iterator[Writers]:
    """Those that the settings ask for; `first_step`: the first that will be taken."""
    writers = Writers(warn)
    if config.log.tensorboard:
        writers.add(TensorBoard.name, lambda: TensorBoard(run.path / "tensorboard", first_step))
    if config.log.wandb_project is not None:
        writers.add(WandB.name, lambda: WandB(run, config))
    try:
        yield writers
    except BaseException:
        writers.close(failed=True)
        raise
    writers.close(failed=False)


class TensorBoard:
    name = "TensorBoard"

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

        # What a process wrote that got further than its last checkpoint is taken back.
        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, row: StepMetrics) -> None:
        for name, value in scalars_of(row).items():
            self.writer.add_scalar(name, value, row.step)

    def show(self, step: int, samples: Path) -> None:
        for number, (prompt, picture) in enumerate(pictures_of(samples)):
            name = f"samples/{number:02d}"
            self.writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
            self.writer.add_text(name, prompt, step)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()


class WandB:
    """The key comes from the environment or from `wandb login`. Offline, `wandb sync RUN/wandb/offline-*` sends it."""

    name = "Weights & Biases"

    def __init__(self, run: RunDir, config: RunConfig) -> None:
        wandb: Any = import_module("wandb")  # an extra
        self.picture: Callable[..., Any] = wandb.Image
        self.run = wandb.init(
            project=config.log.wandb_project,
            name=config.name,
            id=run.id,
            resume="allow",
            dir=run.path,
            mode="offline" if config.log.wandb_offline else None,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def write(self, row: StepMetrics) -> None:
        self.run.log(scalars_of(row), step=row.step)

    def show(self, step: int, samples: Path) -> None:
        pictures = [self.picture(picture, caption=prompt) for prompt, picture in pictures_of(samples)]
        self.run.log({"samples": pictures}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def scalars_of(row: StepMetrics) -> dict[str, float]:
    """Every number of a row that was measured, by names that group in both programs."""
    named = {
        "loss/training": row.loss,
        "loss/validation": row.validation_loss,
        **_by_band("loss_by_timesteps", row.band_losses),
        **_by_band("validation_by_timesteps", row.validation_band_losses),
        **{f"learning_rate/{group}": rate for group, rate in row.learning_rates.items()},
        **{f"update_norm/{block}": norm for block, norm in row.update_norms.items()},
        "magnitude_drift": row.magnitude_drift,
        "seconds": row.seconds,
        "peak_mib": row.peak_mib,
    }
    return {name: value for name, value in named.items() if value is not None}


def _by_band(name: str, losses: ByBand) -> dict[str, float | None]:
    """Nothing for rows that have none."""
    return {f"{name}/{title.split()[0]}": loss for title, loss in zip(BANDS, losses, strict=False)}


def pictures_of(samples: Path) -> Iterator[tuple[str, Image.Image]]:
    """Prompts and pictures of a step's folder."""
    for shot in json.loads((samples / "samples.json").read_text(encoding="utf-8")):
        with Image.open(samples / shot["file"]) as picture:
            yield shot["prompt"], picture.convert("RGB")
