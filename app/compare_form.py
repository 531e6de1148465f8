"""What can be compared, and how a comparison is asked for: from the fields of the page to a job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from app.jobs import told
from app.known_runs import Known, known_runs
from app.run_settings import settings_of
from app.studio import Studio
from dora_core.errors import FileFormatError
from dora_core.layouts import inspect_adapter
from trainer.compare.finished import NothingExportedError, exported
from trainer.compare.request import Request, check_count, parse_request
from trainer.config_sections import SampleConfig
from trainer.failures import ExplainedError
from trainer.queue import Job, Queue
from trainer.run_dir import RunDir
from trainer.worker import ensure_worker

MOST_RUNS = 100
PROGRESS = re.compile(r"picture (\d+) of (\d+)")
Texts = Field(default="", max_length=20_000)


class Asked(BaseModel):
    """The fields, as they were typed; an empty one stands for what the first run's samples are drawn with.

    `sources`: ids of runs, and ID@STEP. Numbers are in one line with commas between, files and prompts one a line.
    """

    sources: list[str] = Field(default_factory=list[str], max_length=200)
    files: str = Texts
    prompts: str = Texts
    strengths: str = Texts
    seeds: str = Texts
    steps: str = Texts
    guidance: str = Texts
    key: str = Field(default="", max_length=80)


def choices(studio: Studio) -> list[dict[str, Any]]:
    """The runs, the newest first; one that cannot be chosen says why."""
    return [_choice(known) for known in known_runs(studio.home).all()[:MOST_RUNS]]


def count(studio: Studio, asked: Asked) -> dict[str, int]:
    """How many pictures it makes. Raises ExplainedError for what cannot be drawn."""
    request = _request(studio, asked)
    rows = len(request.prompts) or _own_prompts(studio, request.sources)
    rows *= max(1, len(request.seeds)) * max(1, len(request.steps)) * max(1, len(request.guidance))
    columns = 1 + len(request.sources) * len(request.strengths)
    check_count(rows, columns)
    return {"rows": rows, "columns": columns, "pictures": rows * columns}


def draw(studio: Studio, asked: Asked) -> Job:
    """Submit it; of two clicks with one key the second gets the job of the first. Raises ExplainedError."""
    count(studio, asked)
    request = _request(studio, asked)
    ids = dict.fromkeys(source.partition("@")[0] for source in asked.sources)
    runs = [studio.home.runs / run_id for run_id in ids]
    job = Queue(studio.home).submit("compare", runs, request.model_dump(mode="json", exclude_defaults=True), asked.key)
    ensure_worker(studio.home)
    return job


def jobs(studio: Studio) -> list[dict[str, Any]]:
    """The comparisons that wait or are drawn, and the last one if it failed."""
    return [
        {**each, "what": ", ".join(_names(studio, job))}
        for job, each in told(studio.home, "compare", progress=PROGRESS)
    ]


def _names(studio: Studio, job: Job) -> list[str]:
    sources = job.parameters.get("sources")
    known = {one.run.id: one.name for one in known_runs(studio.home).all()}
    said = [str(source) for source in sources] if isinstance(sources, list) else []
    return [_short(source, known) for source in said]


def _short(source: str, names: dict[str, str]) -> str:
    run_id, at, step = source.partition("@")
    return f"{names[run_id]}{at and f' at step {step}'}" if run_id in names else Path(source).name


def _request(studio: Studio, asked: Asked) -> Request:
    runs = {known.run.id: known.run for known in known_runs(studio.home).all()}
    for source in asked.sources:
        if source.partition("@")[0] not in runs:
            raise ExplainedError(f"The run {source} is not there (any more).", "Choose another.")
    files = [_file(line) for line in _lines(asked.files)]
    if not asked.sources and not files:
        raise ExplainedError("Nothing is chosen.", "Choose runs, or give adapter files.")
    numbers = {name: _numbers(getattr(asked, name)) for name in ("strengths", "seeds", "steps", "guidance")}
    words = {"prompts": _lines(asked.prompts), **numbers}
    given = {name: value for name, value in words.items() if value}
    return parse_request({"sources": [*asked.sources, *files], **given})


def _file(line: str) -> str:
    path = Path(line).expanduser().absolute()
    if not path.is_file():
        raise ExplainedError(f"There is no file {line}.", "Give the whole path of a .safetensors file.")
    try:
        inspect_adapter(path)
    except FileFormatError as error:
        raise ExplainedError(f"{path.name} cannot be compared: {error}.", "") from None
    return str(path)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _numbers(text: str) -> list[str]:
    return [word for word in re.split(r"[,;\s]+", text) if word]


def _own_prompts(studio: Studio, sources: Sequence[str]) -> int:
    """As many as the first run draws samples of; a file alone is drawn with its trigger phrase."""
    first = next((run for source in sources if (run := _run(studio, source)) is not None), None)
    return 1 if first is None else max(1, len(sample_settings(first).prompts))


def _run(studio: Studio, source: str) -> RunDir | None:
    known = known_runs(studio.home).find(source.partition("@")[0])
    return None if known is None else known.run


def _choice(known: Known) -> dict[str, Any]:
    sample = sample_settings(known.run)
    return {
        **known.facts,
        "pair": known.pair,
        "state": known.status.state,
        "reason": _why_not(known),
        "checkpoints": _checkpoints(known.run),
        "prompts": sample.prompts,
        "drawn": {"seeds": sample.seed, "steps": sample.steps, "guidance": f"{sample.guidance:g}"},
    }


def sample_settings(run: RunDir) -> SampleConfig:
    """How the run draws samples; as by default where its settings cannot be read."""
    config = settings_of(run)
    return SampleConfig() if config is None else config.sample


def _why_not(known: Known) -> str:
    """Why the run's own file cannot be chosen; empty: it can."""
    try:
        stat = known.run.events_file.stat()
        file = _exported(known.run, (stat.st_mtime_ns, stat.st_size))
    except (NothingExportedError, OSError):
        return f"{known.status.state}: it has a file to compare once it has finished"
    return "" if (known.run.path / file).is_file() else f"its file {file} is gone"


@lru_cache(maxsize=1024)
def _exported(run: RunDir, stamp: tuple[int, int]) -> str:
    return exported(run).file


def _checkpoints(run: RunDir) -> list[int]:
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in run.checkpoints_dir.glob("step-*"))
    return sorted(int(match[1]) for match in found if match)
