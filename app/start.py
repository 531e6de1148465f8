"""Start: from the draft to runs in the queue, once, however often it is asked for."""

from __future__ import annotations

import os
import shlex

from app.draft import Draft, DraftFile, new_key
from app.form import override, texts_of_config
from app.setup_form import Form, form_of
from app.studio import Studio
from trainer import locks
from trainer.config import RunConfig
from trainer.config_errors import ConfigError
from trainer.failures import ExplainedError
from trainer.home import VARIABLE, Home
from trainer.plan import plan
from trainer.queue import UNDONE, Queue
from trainer.run_dir import RunDir
from trainer.twins import create_runs
from trainer.worker import ensure_worker

LOCK_SECONDS = 20
PATHS = ("data.folder", "data.more", "data.mask.source", "data.prior.folder", "model.base", "model.vae")


def start(studio: Studio, key: str) -> list[RunDir]:
    """The runs of the draft, created and queued. Raises ConfigError with every problem, or ExplainedError.

    `key` is the draft's as the page showed it: of two clicks, or two pages, with the same key the second gets the runs
    of the first.
    """
    drafts = DraftFile(studio.home)
    begun: list[list[RunDir]] = []

    def take(draft: Draft) -> Draft:
        if (earlier := _begun_with(studio, key)) is not None:
            begun.append(earlier)
            return draft if draft.key != key else draft.but(key=new_key())
        if draft.key != key:
            raise ExplainedError("These settings are not what was shown.", "Look at them and press Start again.")
        begun.append(begin(studio, form_of(studio, draft).config(studio), draft.key))
        return draft.but(key=new_key(), note="")

    drafts.change(take)
    return begun[0]


def jobs_ahead(studio: Studio) -> int:
    """How many jobs a new one waits for."""
    return len(Queue(studio.home).list_jobs(UNDONE))


def command(studio: Studio, form: Form, config: RunConfig) -> str:
    """The command that starts the same, from any folder."""
    texts = texts_of_config(config)
    settings = [
        override(key, texts[key]) if (key := each.partition("=")[0]) in PATHS and texts[key] else each
        for each in form.overrides
    ]
    is_default = VARIABLE not in os.environ and Home.find().path == studio.home.path
    home = [] if is_default else ["--home", str(studio.home.path)]
    return shlex.join(["dora-studio", "train", form.preset, *settings, *home])


def begin(studio: Studio, config: RunConfig, key: str) -> list[RunDir]:
    """The config's runs, created and queued; those that `key` was first sent with, if it is not "" and was sent before.

    Raises ConfigError with every problem.
    """
    with locks.hold(studio.home.path / "start.lock", LOCK_SECONDS):
        if (earlier := _begun_with(studio, key)) is not None:
            return earlier
        planned = plan(config, studio.home)
        if not planned.is_ready:
            raise ConfigError(planned.problems)
        runs = create_runs(config, studio.home.runs)
        Queue(studio.home).submit("twin" if len(runs) > 1 else "train", [run.path for run in runs], key=key)
    ensure_worker(studio.home)
    return runs


def _begun_with(studio: Studio, key: str) -> list[RunDir] | None:
    jobs = (entry.job for entry in Queue(studio.home).list_jobs())
    return next((list(map(RunDir, job.runs)) for job in jobs if key and job.key == key), None)
