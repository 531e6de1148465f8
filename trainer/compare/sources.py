"""What is compared: files of runs, of their checkpoints and of anybody, found and checked before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dora_core.families import FAMILIES
from dora_core.layouts import AdapterInfo, inspect_adapter
from dora_core.metadata import OWN_PREFIX, stated_clip_skip
from dora_core.parity import read_stored
from trainer.adapter_source import SourceError, base_named, from_checkpoint
from trainer.base_weights import BaseModel
from trainer.checkpoints import Checkpoint, CheckpointStore
from trainer.compare.finished import exported
from trainer.compare.manifest import FILES
from trainer.compare.request import Request, RequestError
from trainer.config import RunConfig
from trainer.config_sections import ModelConfig
from trainer.export import export_adapter
from trainer.export_targets import finishing_targets
from trainer.from_file import consumer_of
from trainer.run_dir import RunDir
from trainer.store import Store

_AT_STEP = re.compile(r"(?P<run>.+)@(step-)?(?P<step>\d+)")
KINDS = {"lora": "LoRA", "dora": "DoRA", "full": "full fine-tune", "difference": "difference"}
FOR = {"kohya-compensated": "ComfyUI", "peft": "diffusers"}


@dataclass(frozen=True)
class Found:
    """What a word of the command names. A checkpoint is a file only when it has been exported."""

    said: str
    name: str  # for people
    file: Path | None
    run: RunDir | None = None
    config: RunConfig | None = None  # of the run
    checkpoint: Checkpoint | None = None

    @property
    def trigger_phrase(self) -> str | None:
        """That the file states."""
        return None if self.file is None else inspect_adapter(self.file).metadata.get("modelspec.trigger_phrase")


@dataclass(frozen=True)
class Source:
    """An adapter file that fits the base model. `run`: that it came from, where that is known."""

    said: str
    title: str
    file: Path
    info: AdapterInfo
    run: RunDir | None

    @property
    def kind(self) -> Literal["lora", "dora", "full", "difference"]:
        if self.info.layout == "diff":
            return "full" if self.info.metadata.get(f"{OWN_PREFIX}kind") == "full" else "difference"
        return "lora" if self.info.norm_axis is None else "dora"

    @property
    def steps(self) -> int | None:
        stated = self.info.metadata.get(f"{OWN_PREFIX}steps")
        return int(stated) if stated and stated.isdigit() else None

    @property
    def base_sha256(self) -> str | None:
        return self.info.metadata.get(f"{OWN_PREFIX}base_model_sha256")


def find_source(name: str, store: Store) -> Found:
    """Raises ExplainedError for a name of nothing, and for a run or a checkpoint that is not there yet."""
    path = Path(name).expanduser()
    if path.is_file():
        return _in_file(name, path.absolute(), store)
    if match := _AT_STEP.fullmatch(name):
        return _at_step(store.find(match["run"]), int(match["step"]), store)
    if path.suffix == ".safetensors":
        raise SourceError(f"There is no file {name}.", "Check the path; runs are named by their folder or id.")
    run = store.find(name)
    file = run.path / exported(run).file
    if not file.is_file():
        raise SourceError(
            f"{run.id} was exported to {file}, which is gone.", f"Write it again: dora-studio export {run.id}"
        )
    config = store.config(run)
    return Found(_said(run, store), config.name, file, run, config)


def choose_model(request: Request, found: Sequence[Found]) -> ModelConfig:
    """The base model to draw with: as asked for, else the first run's, else the one that a file names."""
    configs = [(one.said, one.config.model) for one in found if one.config is not None]
    for said, model in configs[1:]:
        if differing := _differing_setting(configs[0][1], model):
            raise RequestError(
                f"{configs[0][0]} and {said} differ in {differing}: no one base model draws both.",
                "Compare them apart.",
            )
    if configs:
        chosen = {} if request.base is None else {"base": request.base, "revision": None}
        return configs[0][1].model_copy(update=chosen)
    files = [one.file for one in found if one.file is not None]  # all, as a checkpoint has a run
    named = (inspect_adapter(file).metadata.get(f"{OWN_PREFIX}base_model") for file in files)
    base = request.base or next((name for name in named if name), None)
    if base is None:
        raise SourceError(f"{files[0]} does not say which base model it belongs to.", "Give it with --base.")
    skips = (stated_clip_skip(inspect_adapter(file).metadata) for file in files)
    return ModelConfig(base=base, clip_skip=next((skip for skip in skips if skip), None))


def open_found(found: Found, base: BaseModel, folder: Path) -> Source:
    """With its file, which for a checkpoint is exported to `folder`; raises ExplainedError or FileFormatError."""
    file = found.file or _exported_checkpoint(found, base, folder / FILES)
    info = inspect_adapter(file)
    consumer_of(info, file.name)
    if info.detection is not None and info.detection.family != base.modules.family.name:
        theirs = FAMILIES[info.detection.family].title
        raise RequestError(
            f"{found.said} is for {theirs}, and {base.path} is of {base.modules.family.title}.",
            "Compare adapters of one family; --base names another base model.",
        )
    read_stored(file, base.modules)
    return Source(found.said, found.said, file, info, found.run)


def foreign_to(sources: Sequence[Source], base: BaseModel) -> list[Source]:
    """Those that state that they were made on another base model."""
    return [source for source in sources if source.base_sha256 not in (None, base.sha256)]


def title_of(source: Source, found: Found) -> str:
    """Short, for people: the run's name, or the file's, what kind it is, and what sets it apart from the usual one."""
    kind, layout = KINDS[source.kind], source.info.layout
    bare = re.sub(rf"[\s_-]*{kind}$", "", found.name, flags=re.IGNORECASE) or found.name
    is_last = found.config is None or source.steps in (None, found.config.train.steps)
    step = "" if is_last else f", step {source.steps}"
    return f"{bare} {kind}{step}" + (f", for {FOR[layout]}" if layout in FOR else "")


def told_apart(titles: Sequence[str]) -> list[str]:
    """The same titles, numbered where there would be two of one."""
    return [
        title if titles.count(title) == 1 else f"{title} ({titles[: place + 1].count(title)})"
        for place, title in enumerate(titles)
    ]


def _at_step(run: RunDir, step: int, store: Store) -> Found:
    checkpoints = CheckpointStore(run.checkpoints_dir, keep_last=1)
    if (checkpoint := checkpoints.at(step)) is None:
        there = ", ".join(str(int(path.name[5:])) for path in sorted(run.checkpoints_dir.glob("step-*"))) or "none"
        raise SourceError(f"{run.id} has no whole checkpoint of step {step}.", f"Those that are there: {there}.")
    config = store.config(run)
    return Found(f"{_said(run, store)}@{checkpoint.folder.name}", config.name, None, run, config, checkpoint)


def _said(run: RunDir, store: Store) -> str:
    return run.id if run.path.parent == store.home.runs else str(run.path)


def _in_file(said: str, file: Path, store: Store) -> Found:
    """With the run that it lies in the exports of, if it does."""
    run = RunDir(file.parent.parent)
    if file.parent != run.exports_dir or not run.exists():
        return Found(said, file.stem, file)
    config = store.config(run)
    return Found(said, config.name, file, run, config)


def _exported_checkpoint(found: Found, base: BaseModel, folder: Path) -> Path:
    """Proven as every export is, on the base model that the run was trained on."""
    assert found.run is not None
    assert found.config is not None
    assert found.checkpoint is not None
    named = found.config.model.base
    own = base_named(named)
    own = base if own.path == base.path else own  # whose hash is known already
    source = from_checkpoint(found.run, found.config, found.checkpoint, named, own)
    target = finishing_targets(source.state.norm_axis)[0]
    path = folder / f"{source.name}{target.ending}"
    return export_adapter(source.state, source.base.weights, source.base.modules, target, path, source.about).path


def _differing_setting(one: ModelConfig, other: ModelConfig) -> str | None:
    """The first setting of the base model, besides where it lies, in which two runs differ."""
    names = (name for name in ModelConfig.model_fields if name not in ("base", "revision"))
    return next((f"model.{name}" for name in names if getattr(one, name) != getattr(other, name)), None)
