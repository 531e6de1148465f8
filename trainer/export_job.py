"""A job of kind "export": the newest checkpoint of a run as proven files, in the run's exports folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pydantic import JsonValue

from dora_core.spec import NormAxis
from trainer.adapter_source import open_source
from trainer.export import check_target, export_adapter
from trainer.export_targets import TARGETS, ExportTarget, finishing_targets
from trainer.failures import ExplainedError
from trainer.finishing import export_all
from trainer.home import Home
from trainer.run_dir import RunDir, slug
from trainer.store import Store


def run_job(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    """Parameter `target`: one of TARGETS; without it, what a finished run is exported for."""
    for run in runs:
        opened = open_source(str(run.path), None, Store(Home.find()))
        targets = _targets(parameters.get("target"), opened.state.norm_axis)
        for target in targets:
            check_target(opened.state, target)
        export = partial(export_adapter, opened.state, opened.base.weights, opened.base.modules, about=opened.about)
        export_all(run, targets, slug(opened.name), export, lambda phase, done, total: None)


def _targets(name: JsonValue, axis: NormAxis | None) -> Sequence[ExportTarget]:
    if name is None:
        return finishing_targets(axis)
    if name not in TARGETS:
        raise ExplainedError(f"There is no target {name!r}.", f"Choose one of {', '.join(TARGETS)}.")
    return [TARGETS[str(name)]]
