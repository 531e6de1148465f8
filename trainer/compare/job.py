"""A job of kind "compare": its parameters are the words of a request; without `sources`, its runs are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from trainer.compare.comparison import compare
from trainer.compare.request import parse_request
from trainer.home import Home
from trainer.quiet import quiet_libraries
from trainer.run_dir import RunDir
from trainer.store import Store


def run_job(runs: Sequence[RunDir], parameters: Mapping[str, JsonValue]) -> None:
    quiet_libraries()
    request = parse_request({"sources": [str(run.path) for run in runs], **parameters})
    print(compare(request, Store(Home.find()), report=_say), flush=True)


def _say(done: int, total: int) -> None:
    print(f"picture {done} of {total}", flush=True)
