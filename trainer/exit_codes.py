"""What an exit code of a process says when the process itself could not: signals, and the codes that Windows gives."""

from __future__ import annotations

import re

from trainer.failures import LESS_MEMORY, Failure

RESUME = "Resume it."
OUT_OF_MEMORY = "Close other programs, then resume. " + LESS_MEMORY
DRIVER = "Resume it. If it happens again, update the driver of the graphics card and run `dora-studio doctor`."

SIGNALS = {
    1: ("stopped", "The terminal or the session that the run belonged to was closed.", RESUME),
    2: ("stopped", "The run was stopped from the keyboard.", RESUME),
    4: ("crashed", "The processor does not know an instruction that the installed torch uses.", "Install again with "
        "`python3 launch.py`, on this computer."),
    6: ("crashed", "A library gave up (abort).", DRIVER),
    7: ("crashed", "Memory that stood for a file could not be read (bus error): a disk full or failing.", "Check the "
        "free space and the disk, then resume."),
    8: ("crashed", "A library divided by zero.", DRIVER),
    9: ("killed", "The run was killed by the system, most likely for lack of memory.", OUT_OF_MEMORY),
    11: ("crashed", "A library crashed (segmentation fault).", DRIVER),
    15: ("stopped", "The run was told to end by another program, or the computer was shut down.", RESUME),
    24: ("killed", "The run used up the processor time that the system allows it.", "Raise the limit (ulimit -t)."),
    25: ("disk full", "A file grew larger than the system allows.", "Raise the limit (ulimit -f), then resume."),
}  # fmt: skip

# NTSTATUS values, https://learn.microsoft.com/openspecs/windows_protocols/ms-erref
WINDOWS = {
    0xC0000005: ("crashed", "A library crashed (access violation).", DRIVER),
    0xC0000017: ("killed", "The computer's memory ran out.", OUT_OF_MEMORY),
    0xC00000FD: ("crashed", "A library crashed (stack overflow).", DRIVER),
    0xC000012D: ("killed", "The page file is too small.", "Let Windows manage its size. " + OUT_OF_MEMORY),
    0xC0000135: ("installation", "A DLL is missing.", "Install again: `python3 launch.py` does it in place."),
    0xC0000142: ("installation", "A DLL could not start.", "Restart Windows, then install again."),
    0xC000013A: ("stopped", "The console window was closed, or Ctrl-C was pressed.", RESUME),
    0xC0000374: ("crashed", "A library crashed (heap corruption).", DRIVER),
    0xC0000409: ("crashed", "A library crashed (fast fail).", DRIVER),
    0x40010004: ("stopped", "Windows was shut down or the user was logged off.", RESUME),
}


def classify_exit(code: int, platform: str, log_tail: str = "") -> Failure:
    """The failure behind an exit code of Popen other than 0 on that platform, or in the last output of the process."""
    # Popen gives signal n as -n, a shell or a container in between as 128 + n; Windows has 32 bits, of any sign.
    row = WINDOWS.get(code & 0xFFFFFFFF) if platform == "win32" else SIGNALS.get(-code if code < 0 else code - 128)
    return Failure(*row) if row else _from_log(code, log_tail)


def _from_log(code: int, log_tail: str) -> Failure:
    said = [line for line in log_tail.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    sentence = f"The run ended with exit code {code}" + (f": {said[-1]}" if said else ".")
    return Failure("unknown", sentence, "The end of its log tells more.")
