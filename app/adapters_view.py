"""What the place Adapters shows: the exported files of each run, what is proven of them, and what can be exported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.adapter_files import AdapterFile, ending_of, files_of
from app.comfyui_folder import remembered
from app.comparisons import size_in_words
from app.jobs import told
from app.known_runs import Known, known_runs
from app.live import Shown
from app.media import download_url
from app.run_settings import settings_of
from app.studio import Studio
from dora_core.layouts import AdapterInfo
from dora_core.rendering import VERDICTS, rendering
from trainer.export_targets import TARGETS, ExportTarget, TargetName
from trainer.failures import ExplainedError
from trainer.queue import Queue
from trainer.run_dir import RunDir
from trainer.worker import ensure_worker

MOST_RUNS = 100
# For whom a kind of file is, in a few words.
FOR: Mapping[str, str] = {
    "kohya": "ComfyUI and most programs",
    "kohya-compensated": "ComfyUI, this base model only",
    "peft": "diffusers",
    "diff": "programs that do not know DoRA",
}
TITLES: Mapping[TargetName, str] = {
    "comfyui": "ComfyUI, Forge, A1111",
    "comfyui-compensated": "ComfyUI, compensated",
    "lycoris": "LyCORIS",
    "diffusers": "diffusers",
    "diff": "full difference",
}


def view(studio: Studio, shown: Shown) -> dict[str, Any]:
    exporting = told(studio.home, "export")
    groups = [_group(studio, known) for known in known_runs(studio.home).all()]
    return {
        "runs": [group for group in groups if group["files"] or group["targets"]][:MOST_RUNS],
        "jobs": [
            {**each, "counts": False, "what": f"{job.parameters.get('target', '')} of {job.runs[0].name}"}
            for job, each in exporting
            if job.runs
        ],
        "comfyui": remembered(studio),
    }


def export(studio: Studio, run_id: str, target: str, key: str) -> str:
    """Submit the export of the run's newest checkpoint; the job's id. Raises ExplainedError."""
    known = known_runs(studio.home).find(run_id)
    names = [] if known is None else [each.name for each in targets_of(known)]
    if known is None or target not in names:
        one_of = f"Choose one of {', '.join(names)}." if names else "Look whether the run is still there."
        raise ExplainedError(f"This cannot be exported for {target!r} (any more).", one_of)
    parameters = {"target": target}
    job = Queue(studio.home).submit("export", [known.run.path], parameters, key)
    ensure_worker(studio.home)
    return job.id


def targets_of(known: Known) -> list[ExportTarget]:
    """What the run's newest checkpoint can be exported as, each kind of file once; [] where there is nothing yet."""
    config = settings_of(known.run)
    if config is None or not has_checkpoint(known.run):
        return []
    fitting = [target for target in TARGETS.values() if config.adapter.form in target.forms]
    return list({target.layout: target for target in reversed(fitting)}.values())[::-1]


def has_checkpoint(run: RunDir) -> bool:
    return any(run.checkpoints_dir.glob("step-*/step.json"))


def where_exact(info: AdapterInfo) -> str:
    """Where the file renders what was trained, in one line."""
    if info.layout == "other":
        return "It mixes the names of several programs: export it again to use it elsewhere."
    where = rendering(info.layout, info.norm_axis)
    return f"Renders exactly in {', '.join(where.exact)} ({where.condition})."


def _group(studio: Studio, known: Known) -> dict[str, Any]:
    config = settings_of(known.run)
    form = config.adapter.form if config else None
    files = files_of(known.run)
    layouts = {info.layout for file in files if not isinstance(info := file.info, str)}
    return {
        **known.facts,
        "axis": config.adapter.norm_axis if config and config.adapter.kind == "dora" else None,
        "targets": [
            {
                "name": target.name,
                "title": TITLES[target.name],
                "where": f"Renders exactly in {target.renders_in(form)}.",
                "is_there": target.layout in layouts,
            }
            for target in targets_of(known)
        ],
        "files": [_file(studio, file) for file in files],
    }


def _file(studio: Studio, file: AdapterFile) -> dict[str, Any]:
    info, sha256 = file.info, file.sha256
    about = (
        {"facts": [], "where": info} if isinstance(info, str) else {"facts": _facts(info), "where": where_exact(info)}
    )
    return {
        "key": file.key,
        "name": file.path.name,
        "ending": ending_of(file.path.name),
        "size": size_in_words(file.stamp[1]),
        "date": datetime.fromtimestamp(file.stamp[0] / 1e9, UTC).isoformat(),
        "sha256": sha256 or "",
        "url": download_url(studio, file.path),
        "is_adapter": not isinstance(info, str),
        **about,
        "proof": proof(file.report, sha256),
    }


def _facts(info: AdapterInfo) -> list[str]:
    kind = "LoRA" if info.norm_axis is None else f"DoRA, {info.norm_axis} axis"
    if info.layout == "diff":
        kind = "full fine-tune" if info.metadata.get("dora_studio.kind") == "full" else "full difference"
    ranks = f"rank {', '.join(map(str, info.ranks))}" if info.ranks else ""
    step = info.metadata.get("dora_studio.steps", "")
    return [text for text in (kind, ranks, FOR.get(info.layout, ""), step and f"step {step}") if text]


def proof(report: Mapping[str, Any] | None, sha256: str | None) -> dict[str, Any]:
    """What the parity report says of the file: `state` is proven, changed, none, or checking while it is hashed."""
    if report is None:
        return {"state": "none", "text": "There is no parity report beside this file.", "rows": [], "not": []}
    if sha256 is None:
        state, text = "checking", "Checking that it is the file that was proven."
    elif report.get("sha256") != sha256:
        state, text = "changed", "This file is not the one that was proven: it has changed since. Export it again."
    else:
        state = "proven" if report.get("passed") is True else "wrong"
        text = str(report.get("headline", ""))
    return {"state": state, "text": text, "rows": _rows(report), "not": _texts(report.get("not_certified"))}


def _rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    consumers = report.get("consumers")
    rows = [each for each in consumers if isinstance(each, dict)] if isinstance(consumers, list) else []
    return [
        {
            "verdict": str(row.get("verdict")),
            "word": VERDICTS.get(row.get("verdict"), ""),  # type: ignore[arg-type] - whatever the file has
            "program": str(row.get("program", "")),
            "way": str(row.get("path", "")),
            "words": str(row.get("words", "")),
        }
        for row in rows
    ]


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
