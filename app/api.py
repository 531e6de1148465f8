"""The page for programs: a few named endpoints for gradio_client, made of the same parts as the page. README.md has an
example. Errors are sentences; what they are about was not changed.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from app.adapter_files import files_of
from app.adapters_view import export
from app.image_sets import ImageSets
from app.intake import Intake
from app.known_runs import known_runs
from app.media import download_url
from app.start import begin
from app.studio import Studio
from trainer.config_errors import ConfigError
from trainer.config_io import config_from
from trainer.data.captions import SUFFIXES as CAPTIONS
from trainer.failures import ExplainedError
from trainer.run_dir import RunGoneError
from trainer.status import RunStatus


def register(studio: Studio) -> None:
    """Within the page's Blocks. Names of the endpoints are those of the functions."""
    api = Api(studio)
    endpoints: tuple[Callable[..., object], ...]
    endpoints = (api.create_set, api.start, api.list_runs, api.status, api.stop, api.export, api.list_files)
    for function in endpoints:
        gr.api(told(function), api_name=function.__name__)


def told(function: Callable[..., object]) -> Callable[..., object]:
    """What is wrong with a request goes to whoever made it, in the words that the page has for it."""

    @functools.wraps(function)
    def telling(*args: Any, **kwargs: Any) -> object:
        try:
            return function(*args, **kwargs)
        except ExplainedError as error:
            raise gr.Error(f"{error.sentence} {error.fix}".strip(), print_exception=False) from error
        except (ConfigError, RunGoneError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return telling


class Api:
    """Each method is an endpoint; its types are what a program sees."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def create_set(self, name: str, pictures: list[dict[str, Any]], prompt: str = "") -> dict[str, Any]:
        """A new image set of these files (gradio_client's handle_file); captions are .txt files among them.

        Returns `set`, its id; `pictures`, how many it has; and `left_out`, a reason by file name.
        """
        stored = ImageSets(self.studio.sets).create(name)
        stored.set_prompt(prompt)
        intake, left_out = Intake(self.studio.uploads), dict[str, str]()
        for called, path in sorted(map(self._uploaded, pictures), key=_captions_last):
            try:
                with intake.waiting() as folder:
                    taken = intake.take(stored, Path(shutil.copy(path, folder / "file")), called)
            except ExplainedError as error:
                left_out[called] = error.sentence
            else:
                if taken.text and not taken.is_new:
                    left_out[called] = taken.text
        return {"set": stored.id, "pictures": len(stored.pictures()), "left_out": left_out}

    def start(self, set_id: str, preset: str, settings: list[str], key: str = "") -> list[str]:
        """Queue a run of the set with a preset and key=value settings, or with train.twin=true a pair.

        Returns the ids of the runs. The same `key` gives the runs that it was first sent with.
        """
        stored = ImageSets(self.studio.sets).find(set_id)
        data = {"folder": str(stored.folder), "instance_prompt": stored.file.prompt}
        config = config_from({"preset": preset, "data": data}, settings, self.studio.home)
        return [run.id for run in begin(self.studio, config, key)]

    def list_runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first, each as `status` has it."""
        return [_told(known.run.id, known.status) for known in known_runs(self.studio.home).all()]

    def status(self, run: str) -> dict[str, Any]:
        """`state` (queued, preparing, training, sampling, paused, stopping, stopped, failed, interrupted, finished),
        `step`, `steps`, `loss`, `seconds_left`, `message`, and `fix` where something is to be done."""
        found = self.studio.store.find(run)
        return _told(found.id, self.studio.store.status(found))

    def stop(self, run: str) -> str:
        """Save and stop; a second time: end at once. Returns what was done."""
        return self.studio.store.stop(self.studio.store.find(run))

    def export(self, run: str, target: str) -> str:
        """Queue a proven file of the run's newest checkpoint for a program; `list_files` has it when it is written.

        Returns the id of the job.
        """
        return export(self.studio, self.studio.store.find(run).id, target, key="")

    def list_files(self, run: str) -> list[dict[str, Any]]:
        """The run's exported files: `name`, `bytes`, and the address to `download` from."""
        files = [file.path for file in files_of(self.studio.store.find(run))]
        return [{"name": f.name, "bytes": f.stat().st_size, "download": download_url(self.studio, f)} for f in files]

    def _uploaded(self, sent: dict[str, Any]) -> tuple[str, Path]:
        """What a program calls a file that it sent, and where it is now: nothing else of this machine.

        Raises ExplainedError.
        """
        root = self.studio.uploads.resolve()
        path = Path(str(sent.get("path", ""))).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise ExplainedError("A picture was named but not sent.", "Send it with gradio_client's handle_file.")
        return str(sent.get("orig_name") or path.name), path


def _captions_last(sent: tuple[str, Path]) -> bool:
    return Path(sent[0]).suffix.lower() in CAPTIONS


def _told(run_id: str, status: RunStatus) -> dict[str, Any]:
    return {
        "id": run_id,
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "loss": status.loss,
        "seconds_left": status.seconds_left,
        "message": status.message,
        "fix": status.fix,
    }
