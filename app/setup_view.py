"""What the place Setup shows, as the value of its widget."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

from app.draft import Draft, DraftFile
from app.form import sections
from app.live import Shown
from app.more_sets import beside
from app.preset_cards import broken_presets, in_words, memory_on_card, preset_cards, size_in_words
from app.setup_form import Form, form_of
from app.start import command, jobs_ahead
from app.studio import Studio
from dora_core.errors import FileFormatError
from dora_core.rendering import rendering
from dora_core.spec import NormAxis
from trainer.base_files import BaseFacts, look_up
from trainer.cli_plan import summary
from trainer.config import RunConfig
from trainer.config_errors import ConfigError, Problem
from trainer.config_io import dump_config, parse_config, read_toml
from trainer.data.scan import ImageSet, scan
from trainer.failures import classify
from trainer.plan import Plan, plan
from trainer.presets import preset_folders
from trainer.run_dir import RunDir

FRESH_SECONDS = 15.0  # what does not show in the folders that are looked at is told so late: disk, the hub's cache
RECENT_RUNS = 30
SPEEDS = "speed.json"  # in the home folder
AXES: tuple[NormAxis, ...] = ("input", "output")
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Standing:
    """What a draft comes to. Without a config there are problems and no plan."""

    form: Form
    base: BaseFacts | str  # else why there are none; "" where nothing is typed
    config: RunConfig | None
    plan: Plan | None
    problems: tuple[Problem, ...]


def view(studio: Studio, shown: Shown) -> dict[str, Any]:
    draft = DraftFile(studio.home).read()
    form = form_of(studio, draft)
    changed_at = DraftFile(studio.home).path.stat().st_mtime_ns // 1000  # exact in JavaScript
    age = int(monotonic() // FRESH_SECONDS)
    presets = tuple(entry for folder in preset_folders(studio.home) for entry in signature(folder))
    pictures = tuple(signature(Path(folder)) for folder in (form.folder, *(each["folder"] for each in form.more or [])))
    speeds = tuple(entry for entry in signature(studio.home.path) if entry[0] == SPEEDS)
    standing = _standing(studio, draft.model_dump_json(), (pictures, presets, age))
    return {
        **_form(standing),
        **_around(studio, standing, (presets, pictures, speeds)),
        "plan": _plan(standing.plan),
        "problems": [{"key": problem.key, "sentence": problem.sentence} for problem in standing.problems],
        "notices": list(standing.plan.notices) if standing.plan else [],
        "ahead": jobs_ahead(studio),
        "changed_at": changed_at,
    }


def signature(folder: Path) -> Signature:
    """Changes with the names, sizes and times of the files in a folder; () without one."""
    try:
        with os.scandir(folder) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=16)
def _standing(studio: Studio, draft: str, seen: object) -> Standing:
    """`draft`: as JSON; `seen`: the signatures of what it depends on besides."""
    form = form_of(studio, Draft.model_validate_json(draft))
    base = _base(form)
    try:
        config = form.config(studio)
    except ConfigError as error:
        # What the plan would say of the base model, while there can be none.
        told = [Problem("model.base", f"model.base: {base}")] if isinstance(base, str) and base else []
        return Standing(form, base, None, None, (*error.problems, *told))
    try:
        planned = plan(config, studio.home, look_at=_look_at)
    except OSError as error:  # a file that may not be read, or that went meanwhile
        failure = classify(error)
        return Standing(form, base, config, None, (Problem("", f"{failure.sentence} {failure.fix}"),))
    return Standing(form, base, config, planned, planned.problems)


def _look_at(folder: Path, smallest_side_px: int, longest_ratio: float) -> ImageSet:
    return _scan(folder, signature(folder), smallest_side_px, longest_ratio)


@lru_cache(maxsize=64)
def _scan(folder: Path, seen: Signature, smallest_side_px: int, longest_ratio: float) -> ImageSet:
    """So that typing does not read every picture again."""
    return scan(folder, smallest_side_px, longest_ratio)


def _base(form: Form) -> BaseFacts | str:
    shown = {**form.below, **form.typed}
    base = shown["model.base"].strip()
    try:
        return look_up(base, shown["model.revision"].strip() or None) if base else ""
    except FileFormatError as error:
        return str(error)
    except OSError as error:
        return classify(error).sentence


def _form(standing: Standing) -> dict[str, Any]:
    form = standing.form
    return {
        "sections": _sections(),
        "below": form.below,
        "typed": form.typed,
        "base": _base_line(standing.base) if isinstance(standing.base, BaseFacts) else "",
        "axes": {axis: _axis_line(axis) for axis in AXES},
        "note": form.draft.note,
        "undo": form.draft.aside is not None,
        "key": form.draft.key,
    }


def _around(studio: Studio, standing: Standing, seen: object) -> dict[str, Any]:
    form = standing.form
    runs = recent_runs(studio, _run_ids(studio))
    images = form.images
    return {
        "preset": form.preset,
        "cards": preset_cards(studio, form.folder, form.pictures, seen),
        "broken": broken_presets(studio, seen),
        "bases": list(dict.fromkeys(["starter", *(base for _, _, base in runs)])),
        "runs": [{"id": run_id, "name": name} for run_id, name, _ in runs],
        "set": {"name": images.file.name, "count": len(images.pictures())} if images else None,
        "beside": beside(studio, form),
        "command": command(studio, form, standing.config) if standing.config else "",
        "toml": dump_config(standing.config) if standing.config else "",
    }


@cache
def _sections() -> list[dict[str, Any]]:
    return sections()


def _run_ids(studio: Studio) -> tuple[str, ...]:
    root = studio.home.runs
    found = sorted((path.name for path in root.iterdir() if path.is_dir()), reverse=True) if root.exists() else []
    return tuple(name for name in found if not name.startswith("."))[:RECENT_RUNS]


@lru_cache(maxsize=4)
def recent_runs(studio: Studio, ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """Id, name and base model of runs whose settings can be read."""
    found: list[tuple[str, str, str]] = []
    for run_id in ids:
        run = RunDir(studio.home.runs / run_id)
        try:
            config = parse_config(read_toml(run.config_file))
        except ConfigError:  # of another version, or deleted a moment ago
            continue
        found.append((run_id, config.name, config.model.base))
    return found


def _base_line(facts: BaseFacts) -> str:
    if facts.family is None:
        return "On the hub; its family is told once it has been fetched."
    predicts = {"epsilon": "predicts noise (epsilon)", "v": "predicts velocity (v)"}
    where = "on this machine" if facts.path else "fetched from the hub first"
    parts = [facts.family.title, *([predicts[facts.prediction]] if facts.prediction else [])]
    return " · ".join([*parts, size_in_words(facts.bytes_on_disk), where])


def _axis_line(axis: NormAxis) -> str:
    """Where the file of such a DoRA renders what was trained, in one line."""
    kohya = rendering("kohya", axis)
    if axis == "input":
        return f"Renders exactly in {', '.join(kohya.exact)}."
    other = [name for layout in ("peft", "kohya-compensated") for name in rendering(layout, "output").exact]
    return f"Renders exactly in {', '.join(kohya.exact)}; in {', '.join(other)} by a file of its own."


def _plan(found: Plan | None) -> dict[str, Any] | None:
    if found is None:
        return None
    seconds, memory, machine = found.seconds, found.memory, found.machine
    return {
        "memory": size_in_words(memory.peak_bytes) if memory else "",
        "have": f"{size_in_words(machine.memory_bytes)} of {machine.name}{_elsewhere(found)}",
        "share": memory.peak_bytes / machine.memory_bytes if memory else 0,
        "time": "" if seconds is None else in_words(seconds),
        "disk": size_in_words(found.disk_bytes),
        "free": f"of {size_in_words(found.free_disk_bytes)} free",
        "passes": f"{found.passes:.3g}",
        "pictures": found.pictures,
        "rows": [{"title": title, "text": text} for title, text in summary(found)],
    }


def _elsewhere(found: Plan) -> str:
    """Where there is no card, what the cards of the presets say: a driver and kernels are to be held there besides."""
    if found.machine.is_card or found.base is None or found.base.family is None:
        return ""
    return f"; {size_in_words(memory_on_card(found.config, found.base))} on a card"
