"""Every way a run can fail, as one sentence and one thing to do about it.

Free of torch: errors are told by the names of their classes and by their text. The rows stand in order, particular
before general. An ExplainedError already says both and passes through.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

TRACE_CHARACTERS = 8000
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
ROOM_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC}


@dataclass(frozen=True)
class Failure:
    """What the person is told: what went wrong, what to do, and the trace for whoever wants it."""

    category: str
    sentence: str
    fix: str
    trace: str = ""


class ExplainedError(RuntimeError):
    """An error that already knows its sentence and its fix."""

    category = "explained"

    def __init__(self, sentence: str, fix: str) -> None:
        super().__init__(f"{sentence} {fix}")
        self.sentence = sentence
        self.fix = fix


class DivergedError(ExplainedError):
    """The loss was not a finite number too many times in a row; the last good adapter is kept."""

    category = "diverged"

    def __init__(self, step: int, in_a_row: int, pictures: Sequence[str]) -> None:
        self.step = step
        self.pictures = tuple(pictures)
        super().__init__(
            f"Training diverged: at step {step} the loss was not a number for the {in_a_row}th time in a row. "
            f"The last pictures were {', '.join(pictures)}.",
            "Look at these pictures, halve the learning rate, or choose precision fp32. "
            "The adapter from before is kept and can be exported.",
        )


class ResumeRefusedError(ExplainedError):
    """The settings differ from those of the checkpoint in something that a resumed run cannot change."""

    category = "resume refused"
    CONTENT: Mapping[str, str] = {  # what is told apart by what is in it, not by where it lies
        "model.base": "Let model.base be the model that the run began with",
        "data.folder": "Bring back the pictures and captions that the run began with",
    }

    def __init__(self, field: str, saved: object, wanted: object) -> None:
        then, now = ("nothing" if value is None else value for value in (saved, wanted))
        back = self.CONTENT.get(field, f"Set {field} back to {then}")
        super().__init__(
            f"This run cannot be resumed with another {field}: its checkpoint has {then}, now it would be {now}.",
            f"{back}, or clone the run: the clone begins anew with the settings as they are now.",
        )


@dataclass(frozen=True)
class Row:
    """One kind of failure: a class of the error has one of the names (none given: any has), and its text matches.

    In the sentence, `{text}` is the first line of what the error says, `{all}` all of it.
    """

    category: str
    names: str
    pattern: str
    sentence: str
    fix: str

    def matches(self, error: BaseException) -> bool:
        classes = {kind.__name__ for kind in type(error).__mro__}
        named = not self.names or not classes.isdisjoint(self.names.split())
        return named and re.search(self.pattern, str(error), re.IGNORECASE) is not None

    def failure(self, error: BaseException) -> Failure:
        return Failure(self.category, self.sentence.format(text=first_line(error), all=error), self.fix)


# What to change when a run does not fit, the thing that costs least first.
LESS_MEMORY = (
    "Set train.batch_size to 1 and train.accumulation to what it was, turn train.checkpointing on, "
    "or lower data.resolution_px. `dora-studio plan` shows what each saves."
)
FREE_DISK = (
    "Free some space, then resume: the last checkpoint is whole. DORA_STUDIO_HOME puts new runs on a larger disk."
)
DRIVER = "`dora-studio doctor` tells which driver or torch build belongs here and how to get it."

ROWS = (
    # torch reports a lack of memory under several names, some of them from libraries below it (oneDNN: "primitive")
    Row("out of memory", "OutOfMemoryError", "", "The graphics card ran out of memory.", LESS_MEMORY),
    Row(
        "out of memory", "RuntimeError",
        r"CUDA.*out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|MPS backend out of memory",
        "The graphics card ran out of memory.", LESS_MEMORY,
    ),
    Row(
        "out of memory", "RuntimeError OSError",
        r"can't allocate memory|not enough memory|cannot allocate memory|paging file is too small|WinError 1455"
        r"|could not create a (primitive|memory)$",
        "The computer ran out of memory.",
        "Close other programs or enlarge the page file. " + LESS_MEMORY,
    ),
    Row("out of memory", "MemoryError", "", "The computer ran out of memory.", "Close other programs. " + LESS_MEMORY),
    # torch.save on a full disk speaks of positions, safetensors of an I/O error
    Row(
        "disk full", "",
        r"no space left on device|not enough space on the disk|disk quota exceeded|os error 28\b|file too large",
        "The disk is full.", FREE_DISK,
    ),
    Row(
        "disk full", "RuntimeError", r"unexpected pos \d+|PytorchStreamWriter failed writing|inline_container.*write",
        "The disk is full: a file could not be written to its end.", FREE_DISK,
    ),
    Row(
        "bad picture", "UnidentifiedImageError", "", "A picture cannot be read: {text}.",
        "Take it out of the folder, or open it and save it again as PNG.",
    ),
    Row(
        "bad picture", "DecompressionBombError DecompressionBombWarning", "", "A picture is too large: {text}.",
        "Scale it down; 4096 pixels a side are plenty.",
    ),
    Row(
        "bad picture", "OSError SyntaxError", r"image file is truncated|broken (PNG|data stream)|not a PNG file",
        "A picture is damaged: {text}.", "Take it out of the folder, or copy it again from where it came from.",
    ),
    Row(
        "bad model file", "UnpicklingError", "", "A model file is a pickle, which could run any program.",
        "Use the .safetensors file of the model; most model pages offer one.",
    ),
    Row(
        "bad model file", "SafetensorError", "", "A model file is damaged or was not loaded to its end: {text}.",
        "Download it again and compare its size with the one on the model's page.",
    ),
    Row("bad model file", "FileFormatError", "", "A file is not what it should be: {all}", "Choose another file."),
    Row(
        "bad model file", "RuntimeError", r"Error\(s\) in loading state_dict|size mismatch for",
        "The base model does not fit its family: {text}", "Check model.base with `dora-studio inspect`.",
    ),
    Row(
        "no access", "GatedRepoError", "", "Its page asks you to accept its terms first.",
        "Accept them in the browser, then run `hf auth login`, then start again.",
    ),
    Row(
        "no access", "RepositoryNotFoundError RevisionNotFoundError", "",
        "The model hub knows no model of that name, or it is a private one.",
        "Check the spelling of model.base and model.revision; for a private model run `hf auth login` first.",
    ),
    Row(
        "no access", "HfHubHTTPError", r"\b(401|403)\b", "The model hub refused the access token.",
        "Run `hf auth login` with a token that is valid.",
    ),
    # TransportError: of the HTTP library, for all that keeps a request from being answered
    Row(
        "no network", "LocalEntryNotFoundError OfflineModeIsEnabled ConnectionError TransportError HfHubHTTPError", "",
        "The model hub cannot be reached: {text}.",
        "Connect to the network, or set model.base to a folder or file that is here.",
    ),
    Row(
        "card", "", r"no kernel image is available|not compatible with the current PyTorch installation",
        "This build of torch does not support the graphics card.", DRIVER,
    ),
    Row(
        "card", "",
        r"Torch not compiled with CUDA|no NVIDIA driver|driver version is insufficient|driver on your system",
        "PyTorch cannot use the graphics card: {text}.", DRIVER,
    ),
    Row(
        "card", "", r"CUDA error|cuDNN error|CUBLAS_STATUS|CUDA driver error",
        "The graphics card or its driver failed: {text}.",
        "Resume the run. If it happens again, restart the computer, update the driver, and undo any overclocking.",
    ),
    Row(
        "killed", "RuntimeError", r"DataLoader worker .* is killed",
        "The system killed a part of the run, most likely for lack of memory.", "Close other programs, then resume.",
    ),
    Row("busy", "RunBusyError LockHeldError", "", "In use: {text}.", "`dora-studio queue list` shows what is running."),
    Row(
        "bad settings", "ConfigError ValidationError TOMLDecodeError", "", "The settings are not valid: {all}",
        "Correct what is named; `dora-studio plan` lists every problem at once.",
    ),
    Row(
        "installation", "ModuleNotFoundError ImportError", "", "A part of the installation is missing: {text}.",
        "Install again: `python3 launch.py` does it in place.",
    ),
    Row(
        "missing file", "RunGoneError", "", "The run directory {text}.",
        "`dora-studio runs list` shows what is there; `dora-studio runs restore` brings back what is in the trash.",
    ),
    Row(
        "missing file", "FileNotFoundError NotADirectoryError", "", "A file is missing: {text}.",
        "Put it back, or correct the path in the settings.",
    ),
    Row(
        "no permission", "PermissionError", "", "A file or folder may not be used: {text}.",
        "Give your user the right to read and write it, or close the program that has it open.",
    ),
    Row(
        "disk", "OSError", r"input/output error|read-only file system|stale file handle",
        "The disk failed: {text}.", "Check the disk and its connection, then resume the run.",
    ),
    Row(
        "stopped", "KeyboardInterrupt", "", "Stopped from the keyboard.",
        "Resume the run: it goes on from its last checkpoint.",
    ),
)  # fmt: skip
UNKNOWN = Row(
    "unknown", "", "", "An unexpected error: {text}",
    "The trace tells where. If it looks like our fault, report it with the run's log.txt and `dora-studio doctor`.",
)  # fmt: skip


def classify(error: BaseException) -> Failure:
    """The failure that an exception, or the one it was raised from, amounts to."""
    told = next((failure for one in _chain(error) if (failure := _known(one))), None) or UNKNOWN.failure(error)
    trace = "".join(traceback.format_exception(error))[-TRACE_CHARACTERS:]
    return Failure(told.category, redacted(told.sentence), redacted(told.fix), redacted(trace))


def first_line(error: BaseException) -> str:
    """The first line of what the error says, with its class where that alone tells little, and no number of errno."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} ({error.strerror})"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError) or not said:
        return f"{type(error).__name__} {said}".strip()
    return said.removesuffix(".") if not said.endswith("...") else said


def redacted(text: str) -> str:
    """Text for logs and events, without access tokens."""
    return TOKEN.sub("hf_***", text)


def _known(error: BaseException) -> Failure | None:
    if isinstance(error, ExplainedError):
        return Failure(error.category, error.sentence, error.fix)
    if isinstance(error, OSError) and error.errno in ROOM_ERRNOS:
        return Failure("disk full", f"The disk is full: {error.strerror}{_place(error)}.", FREE_DISK)
    return next((row.failure(error) for row in ROWS if row.matches(error)), None)


def _place(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from, or while handling."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
