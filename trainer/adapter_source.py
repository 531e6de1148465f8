"""The adapter that a command's argument names, with its base model: a file of any program, or a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dora_core.files import read_adapter
from dora_core.layouts import inspect_adapter
from dora_core.metadata import OWN_PREFIX, About, stated_clip_skip
from dora_core.state import AdapterState
from trainer.base_choices import as_chosen
from trainer.base_files import fetched, locate, look_up
from trainer.base_weights import BaseModel, open_base
from trainer.checkpoints import ADAPTER, Checkpoint, CheckpointStore, read_state
from trainer.config import RunConfig
from trainer.failures import ExplainedError
from trainer.run_dir import RunDir
from trainer.store import Store


class SourceError(ExplainedError):
    """An argument that names no adapter, or one whose base model is not known."""

    category = "bad settings"


@dataclass(frozen=True)
class AdapterSource:
    name: str  # for files made of it
    state: AdapterState
    base: BaseModel
    about: About


def open_source(source: str, base: str | None, store: Store) -> AdapterSource:
    """`source` is an adapter file, or a run, of which the newest checkpoint is taken.

    `base` names the model that it belongs to; None: the one that the file or the run names. Raises ExplainedError and
    FileFormatError.
    """
    return _from_file(Path(source), base) if Path(source).is_file() else _from_run(source, base, store)


def base_named(name: str, revision: str | None = None) -> BaseModel:
    """The model of that name, from this computer."""
    path = locate(name) or fetched(name, revision)
    if path is None:
        raise SourceError(f"The base model {name} is not on this computer.", "Give its folder or file with --base.")
    return open_base(path)


def _from_file(path: Path, base: str | None) -> AdapterSource:
    info = inspect_adapter(path)
    if info.layout == "kohya-compensated":
        raise SourceError(
            f"{path} holds magnitudes that are changed for ComfyUI alone.",
            "Export from the run, or from another file of it.",
        )
    named = base or info.metadata.get(f"{OWN_PREFIX}base_model")
    if named is None:
        raise SourceError(f"{path} does not say which base model it belongs to.", "Give it with --base.")
    model = base_named(named)
    about = About(
        title=info.metadata.get("modelspec.title"),
        base_model=named,
        base_model_sha256=model.sha256,
        prediction=look_up(str(model.path)).prediction or "epsilon",
        trigger_phrase=info.metadata.get("modelspec.trigger_phrase"),
        clip_skip=stated_clip_skip(info.metadata),
    )
    return AdapterSource(path.stem, read_adapter(path, model.modules).state, model, about)


def _from_run(source: str, base: str | None, store: Store) -> AdapterSource:
    run = store.find(source)
    config = store.config(run)
    newest = CheckpointStore(run.checkpoints_dir, config.save.keep_last).newest()
    if newest is None:
        raise SourceError(f"{run.id} has no whole checkpoint yet.", "Train it, or wait for its first checkpoint.")
    named = base or config.model.base
    return from_checkpoint(run, config, newest, named, base_named(named, None if base else config.model.revision))


def from_checkpoint(
    run: RunDir, config: RunConfig, checkpoint: Checkpoint, named: str, base: BaseModel
) -> AdapterSource:
    """The adapter as it was then; `named` is what `base` is called."""
    about = About(
        title=config.name,
        base_model=named,
        base_model_sha256=base.sha256,
        prediction=as_chosen(look_up(str(base.path)), config.model).prediction or "epsilon",
        clip_skip=config.model.clip_skip,
        trigger_phrase=config.data.trigger or config.data.instance_prompt or None,
        provenance={"steps": str(checkpoint.step)},
    )
    return AdapterSource(f"{run.id}-{checkpoint.step:06d}", read_state(checkpoint.folder / ADAPTER), base, about)
