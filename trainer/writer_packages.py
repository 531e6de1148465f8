"""Whether what a run is to be written to besides its own files can work here; told before the model is loaded."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from trainer.config_errors import Problem
from trainer.config_sections import LogConfig
from trainer.failures import ExplainedError

KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def writer_problems(log: LogConfig) -> list[Problem]:
    """Packages that are missing, and a key for W&B, which is taken from its own places only and never stored here."""
    problems: list[Problem] = []
    if log.tensorboard and find_spec("tensorboard") is None:
        problems.append(_missing("log.tensorboard", "true", "tensorboard", "false"))
    if log.wandb_project is None:
        return problems
    if find_spec("wandb") is None:
        problems.append(_missing("log.wandb_project", repr(log.wandb_project), "wandb", "none"))
    elif not log.wandb_offline and not has_key(os.environ):
        sentence = f"log.wandb_project is {log.wandb_project!r}, and this machine has no key of Weights & Biases"
        ways = "run `wandb login`, set WANDB_API_KEY, or set log.wandb_offline to true"
        problems.append(Problem("log.wandb_project", f"{sentence}: {ways}"))
    return problems


def require_writers(log: LogConfig) -> None:
    """Raises ExplainedError where a run could not be written as asked."""
    for problem in writer_problems(log):
        what, _, fix = problem.sentence.partition(": ")
        raise ExplainedError(f"{what}.", f"{fix[:1].upper()}{fix[1:]}.")


def has_key(environment: Mapping[str, str]) -> bool:
    """Whether W&B would find a key, or needs none, by its own variables and what `wandb login` writes."""
    if any(environment.get(name) for name in KEYS) or environment.get("WANDB_MODE") in ("offline", "disabled"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(environment.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _missing(key: str, value: str, package: str, off: str) -> Problem:
    install = f'pip install "dora-studio[{package}]"'
    return Problem(key, f"{key} is {value}, which needs the package {package}: {install}, or set it to {off}")
