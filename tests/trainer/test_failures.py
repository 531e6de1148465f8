"""Every failure is one sentence and one fix. The errors are the libraries' own, raised by them wherever possible."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from safetensors.torch import save_file

from dora_core.errors import FileFormatError
from trainer.exit_codes import classify_exit
from trainer.failures import ROWS, UNKNOWN, DivergedError, ExplainedError, ResumeRefusedError, classify, redacted
from trainer.run_dir import RunBusyError

# Errors that need a card, a network or an odd disk; their texts are as the libraries give them.
CUDA_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.2 GiB is"
)
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"
)
TORCH_SAVE = "[enforce fail at inline_container.cc:664] . unexpected pos 4194304 vs 4194200"


def error_of(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one it is, is what the table says
        call()
    return caught.value


def truncated_picture() -> bytes:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "PNG")
    return data.getvalue()[:1500]


def open_bomb(folder: Path) -> None:
    path = folder / "big.png"
    Image.new("1", (15000, 13000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Image.open(path)


def open_damaged_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({"weight": torch.ones(40)}, path)
    path.write_bytes(path.read_bytes()[:-50])
    with safetensors.safe_open(path, "pt"):
        pass


class PickleBomb:
    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return os.getcwd, ()


def load_pickle(folder: Path) -> None:
    path = folder / "model.ckpt"
    torch.save(PickleBomb(), path)
    torch.load(path, weights_only=True)


def open_missing(folder: Path) -> None:
    (folder / "picture.png").read_bytes()


def raise_from_inner(folder: Path) -> None:
    try:
        raise torch.OutOfMemoryError(CUDA_MEMORY)
    except torch.OutOfMemoryError as error:
        raise RuntimeError("step 7 failed") from error


def no_card(folder: Path) -> None:
    torch.zeros(1, device="cuda")


REAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing file": (open_missing, "missing file"),
    "a picture that is text": (lambda folder: Image.open(io.BytesIO(b"hello")), "bad picture"),
    "half a picture": (lambda folder: Image.open(io.BytesIO(truncated_picture())).load(), "bad picture"),
    "a picture of 195 million pixels": (open_bomb, "bad picture"),
    "a model file cut short": (open_damaged_model, "bad model file"),
    "a pickle": (load_pickle, "bad model file"),
    "an error raised from a lack of memory": (raise_from_inner, "out of memory"),
    "memory that Python cannot give": (lambda folder: bytearray(1 << 62), "out of memory"),
    "memory that torch cannot give": (lambda folder: torch.empty(1 << 50), "out of memory"),
    "a module that is not there": (lambda folder: __import__("no_such_module"), "installation"),
    "a state that does not fit": (
        lambda folder: torch.nn.Linear(2, 3).load_state_dict({"weight": torch.ones(5, 2)}),
        "bad model file",
    ),
    "something else": (lambda folder: ["only"][1], "unknown"),
}


@pytest.mark.parametrize("what", REAL)
def test_what_libraries_raise_is_told(tmp_path: Path, what: str) -> None:
    call, category = REAL[what]
    failure = classify(error_of(lambda: call(tmp_path)))
    assert failure.category == category
    assert_is_told(failure.sentence, failure.fix)
    assert "Traceback" in failure.trace


@pytest.mark.skipif(torch.version.cuda is not None, reason="this build of torch could use a card")
def test_a_build_without_cuda_is_told(tmp_path: Path) -> None:
    assert classify(error_of(lambda: no_card(tmp_path))).category == "card"


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (torch.OutOfMemoryError(CUDA_MEMORY), "out of memory"),
        (RuntimeError(CPU_MEMORY), "out of memory"),
        (RuntimeError("could not create a primitive"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (OSError(22, "The paging file is too small for this operation to complete", None, 1455), "out of memory"),
        (RuntimeError(TORCH_SAVE), "disk full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "disk full"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full"),
        (safetensors.SafetensorError("I/O error: No space left on device (os error 28)"), "disk full"),
        (OSError(errno.EIO, "Input/output error"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "disk"),
        (PermissionError(13, "Permission denied", "run.toml"), "no permission"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "card"),
        (RuntimeError("Found no NVIDIA driver on your system."), "card"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "card"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "killed"),
        (LocalEntryNotFoundError("outgoing traffic has been disabled"), "no network"),
        (ConnectionError("Name or service not known"), "no network"),
        (FileFormatError("x.safetensors: it is no adapter"), "bad model file"),
        (RunBusyError("another process works on run-1"), "busy"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError(""), "unknown"),
    ],
)
def test_what_needs_a_card_a_network_or_an_odd_disk_is_told(error: BaseException, category: str) -> None:
    failure = classify(error)
    assert failure.category == category
    assert_is_told(failure.sentence, failure.fix)


@pytest.mark.parametrize("kind", [GatedRepoError, RepositoryNotFoundError])
def test_a_hub_that_refuses_is_told(kind: type[Exception]) -> None:
    error = kind.__new__(kind)  # their constructors want a response of the hub
    error.args = ("403 Client Error for hf_abcdefghijklmnop",)
    assert classify(error).category == "no access"
    assert "hf_abc" not in str(classify(error))


def test_errors_that_explain_themselves_keep_their_words() -> None:
    error = ExplainedError("It is so.", "Do this.")
    assert (classify(error).sentence, classify(error).fix) == ("It is so.", "Do this.")
    diverged = classify(DivergedError(70, 20, ["a.png", "b.png"]))
    assert (diverged.category, "a.png, b.png" in diverged.sentence, "70" in diverged.sentence) == (
        "diverged",
        True,
        True,
    )
    refused = classify(ResumeRefusedError("adapter.rank", 8, 16))
    assert "adapter.rank" in refused.sentence
    assert "8" in refused.fix


def test_tokens_are_in_no_text() -> None:
    assert (
        redacted("Bearer hf_AbCdEfGhIjKlMn, hf_xy and shelf_AbCdEfGhIj") == "Bearer hf_***, hf_xy and shelf_AbCdEfGhIj"
    )
    assert "hf_A" not in str(classify(ValueError("token hf_AbCdEfGhIjKlMn is bad")))


def test_every_row_is_told_in_sentences() -> None:
    for row in (*ROWS, UNKNOWN):
        assert_is_told(row.sentence.format(text="x", all="x."), row.fix)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a thing of POSIX")
@pytest.mark.parametrize(
    ("program", "category"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("import os; os.abort()", "crashed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "stopped"),
        ("raise ValueError('a thing')", "unknown"),
    ],
)
def test_how_a_process_really_ended_is_told(program: str, category: str) -> None:
    without_core_file = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {program}"
    done = subprocess.run([sys.executable, "-c", without_core_file], capture_output=True, text=True)
    failure = classify_exit(done.returncode, sys.platform, done.stderr)
    assert failure.category == category
    assert_is_told(failure.sentence, failure.fix)
    assert ("ValueError: a thing" in failure.sentence) == (category == "unknown")


@pytest.mark.parametrize(
    ("code", "platform", "category"),
    [
        (137, "linux", "killed"),  # 128 + 9: a shell or a container in between
        (3221225477, "win32", "crashed"),
        (-1073741819, "win32", "crashed"),  # the same, read as a signed number
        (3221225786, "win32", "stopped"),
        (0xC000012D, "win32", "killed"),
        (0xC0000135, "win32", "installation"),
        (1, "win32", "unknown"),
        (9, "win32", "unknown"),  # signals are not a thing of Windows
        (3, "linux", "unknown"),
    ],
)
def test_an_exit_code_says_what_its_platform_means_by_it(code: int, platform: str, category: str) -> None:
    assert classify_exit(code, platform).category == category


def assert_is_told(sentence: str, fix: str) -> None:
    assert sentence[0].isupper()
    assert sentence.rstrip()[-1] in ".:" or ":" in sentence
    assert fix.endswith((".", "`."))
    assert ".." not in sentence.replace("...", "")
