"""A job of kind "export": the newest checkpoint of a run as a proven file, in the run's exports folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from trainer.adapter_source import open_source
from trainer.events import EventLog, Exported
from trainer.export import TARGETS, check_target, export_adapter
from trainer.export_targets import finishing_targets
from trainer.home import Home
from trainer.run_dir import RunDir, slug
from trainer.store import Store


def run_job(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    """Parameter `target`: one of TARGETS; without it, what a finished run is exported for."""
    for run in runs:
        opened = open_source(str(run.path), None, Store(Home.find()))
        chosen = parameters.get("target")
        targets = finishing_targets(opened.state.norm_axis) if chosen is None else [TARGETS[str(chosen)]]
        for target in targets:
            check_target(opened.state, target)
            path = run.exports_dir / f"{slug(opened.name)}{target.ending}"
            done = export_adapter(opened.state, opened.base.weights, opened.base.modules, target, path, opened.about)
            file = done.path.relative_to(run.path).as_posix()
            EventLog(run.events_file).append(Exported(file=file, headline=done.report.headline))
