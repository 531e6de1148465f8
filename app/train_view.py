"""What the place Train shows of the run that is chosen: the values of its widgets, from its folder alone."""

from __future__ import annotations

from typing import Any

from app.known_runs import Known, known_runs, places
from app.live import Shown
from app.run_actions import actions, is_in_trash
from app.run_settings import settings_of
from app.samples_view import matrix
from app.series import shelf
from app.studio import Studio
from trainer.events import Failed, StepMetrics, read_events
from trainer.run_dir import RunDir, tail

LOG_LINES, LOG_BYTES = 200, 32768
CHOICES = 60  # runs that can be laid over the chart
TITLES = {"lora": "LoRA", "dora": "DoRA", "full": "Full fine-tune"}


def card(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the run's card; `none`: there is no run yet, `gone`: the one that was looked at is gone."""
    known = known_runs(studio.home).find(shown.run_id)
    if known is None:
        return missing(studio, shown.run_id)
    status, look = known.status, shelf().look(known.run.metrics_file)
    return {
        "run": known.run.id,
        "path": str(known.run.path),
        "title": known.name,
        "about": about(known),
        "state": status.state,
        "message": status.message,
        "fix": status.fix,
        "late": status.is_late,
        "step": status.step,
        "steps": status.steps,
        "facts": facts(known, look.recent_loss, look.last),
        "headline": status.headline,
        "trace": trace(known),
        "warnings": list(dict.fromkeys(status.warnings))[-20:],
        "skipped": status.skipped_steps,
        "ahead": places(studio.home).get(known.run.id, 0) if status.state == "queued" else 0,
        "twins": twins(studio, known),
        "actions": [{"name": one.name, "label": one.label, "look": one.look} for one in actions(status)],
    }


def missing(studio: Studio, run_id: str) -> dict[str, Any]:
    is_empty = not known_runs(studio.home).all()
    return {"gone": bool(run_id), "none": is_empty, "trash": is_in_trash(studio, run_id), "run": run_id}


def about(known: Known) -> str:
    """Kind, rank and base model."""
    if not known.kind:
        return "Its settings cannot be read."
    return f"{TITLES[known.kind]}{f', rank {known.rank}' if known.rank else ''}, on {known.base}"


def facts(known: Known, loss: float | None, last: StepMetrics | None) -> list[dict[str, str]]:
    """What stands below the bar, each a name, a value and what it means."""
    status = known.status
    speed = status.seconds_per_step
    rates = (last.learning_rates if last else {}).items()
    rate = max((value for _, value in rates), default=None)
    each = "\n".join(f"{name}: {value:.3g}" for name, value in rates)
    shown = [
        ("step", f"{status.step:,} / {status.steps:,}" if status.steps else "", ""),
        ("loss", "" if loss is None else f"{loss:.4f}", "Mean of the newest 50 steps."),
        ("speed", "" if not speed else _speed(speed), "Median of the newest 20 steps."),
        ("time left", "" if status.seconds_left is None else duration(status.seconds_left), ""),
        ("memory", _gib(last.peak_mib) if last and last.peak_mib else "", "Of the card, highest since the start."),
        ("learning rate", "" if rate is None else f"{rate:.2e}", f"Highest of all groups.\n{each}"),
    ]
    return [{"name": name, "value": value or "\N{EN DASH}", "hint": hint} for name, value, hint in shown]


def trace(known: Known) -> str:
    """Where a run failed, in Python's words; or the end of the log of one that was killed."""
    if known.status.state == "interrupted":
        record = known.run.read_exit()
        return record.tail if record else ""
    if known.status.state != "failed":
        return ""
    failures = [event for event in _events(known.run) if isinstance(event, Failed)]
    return failures[-1].trace if failures else ""


def twins(studio: Studio, known: Known) -> list[dict[str, Any]]:
    return [
        {"run": one.run.id, "label": TITLES.get(one.kind, one.kind), "state": one.status.state, "here": one is known}
        for one in known_runs(studio.home).twins(known)
    ]


def chart(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the loss chart: the run, its twin, and which others may be laid over them."""
    runs = known_runs(studio.home)
    known = runs.find(shown.run_id)
    if known is None:
        return {"run": "", "curves": [], "choices": []}
    shown_runs = [known, *(one for one in runs.twins(known) if one.run.id != known.run.id)]
    own = {one.run.id for one in shown_runs}
    others = [one for one in runs.all() if one.run.id not in own and one.status.step > 0][:CHOICES]
    return {
        "run": known.run.id,
        "steps": known.status.steps,
        "curves": [curve(one) for one in shown_runs],
        "choices": [{"run": one.run.id, "name": one.name, "live": one.status.is_live} for one in others],
    }


def curve(known: Known) -> dict[str, Any]:
    """One run's line on the chart."""
    return {"run": known.run.id, "name": known.name, **shelf().look(known.run.metrics_file).curve}


def samples(studio: Studio, shown: Shown) -> dict[str, Any]:
    known = known_runs(studio.home).find(shown.run_id)
    if known is None:
        return {"run": "", "columns": [], "rows": [], "next": None, "count": 1}
    return matrix(studio, known.run, known.status, settings_of(known.run))


def health(studio: Studio, shown: Shown) -> dict[str, Any]:
    """The value of the health panel: whether the adapter learns, and what went wrong by the way."""
    known = known_runs(studio.home).find(shown.run_id)
    if known is None:
        return {"run": ""}
    look = shelf().look(known.run.metrics_file)
    row = look.health
    norms = [{"block": name, "norm": value} for name, value in (row.update_norms if row else {}).items()]
    return {
        "run": known.run.id,
        "at": row.step if row else None,
        "norms": norms,
        "drift": row.magnitude_drift if row else None,
        "skipped": known.status.skipped_steps,
        "peak": _gib(look.last.peak_mib) if look.last and look.last.peak_mib else "",
    }


def log(studio: Studio, shown: Shown) -> dict[str, str]:
    known = known_runs(studio.home).find(shown.run_id)
    return {"run": shown.run_id, "text": tail(known.run.log_file, LOG_LINES, LOG_BYTES) if known else ""}


def _events(run: RunDir) -> list[Any]:
    return list(read_events(run.events_file)[0])


def duration(seconds: float) -> str:
    """As 2 h 05 min, 12 min 30 s or 45 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _speed(seconds: float) -> str:
    return f"{1 / seconds:.2f} it/s" if seconds < 1 else f"{seconds:.2f} s/it"


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"
