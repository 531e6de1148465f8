"""What the libraries print of their own accord, turned down to what a person can use."""

from __future__ import annotations

import diffusers.utils.logging
import transformers.utils.logging


def quiet_libraries() -> None:
    """For a process' main function: no bars below our own, no hints about packages that are not needed."""
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
