"""Where a kind of file renders as trained and where it does not: the parity check's general result, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dora_core.layouts import Layout
from dora_core.spec import Form, NormAxis


@dataclass(frozen=True)
class Rendering:
    """`exact` and the keys of `wrong` are programs; those that are in neither do not read the layout."""

    exact: tuple[str, ...]
    wrong: Mapping[str, str]  # program -> what it makes of the file
    condition: str = ""  # under which "exact" holds


Verdict = Literal["exact", "close", "coarse", "wrong", "unread"]
# What a program makes of a file, in a word or two.
VERDICTS: Mapping[Verdict, str] = {
    "exact": "as trained",
    "close": "close",
    "coarse": "coarse",
    "wrong": "wrong",
    "unread": "not read",
}

COMFYUI, FORGE, A1111 = "ComfyUI", "Forge, reForge", "A1111 >= 1.10"
SDNEXT, INVOKEAI, LYCORIS, DIFFUSERS = "SD.Next", "InvokeAI", "LyCORIS", "diffusers"
PEFT, SDCPP, SDSCRIPTS = "diffusers, PEFT", "stable-diffusion.cpp", "sd-scripts, forge-classic, ComfyUI's bypass node"

_PLAIN: Mapping[str, str] = dict.fromkeys((DIFFUSERS, SDCPP, SDSCRIPTS), "a plain LoRA: ignores dora_scale")
_GARBAGE: Mapping[str, str] = dict.fromkeys(
    (A1111, INVOKEAI), "garbage: takes the magnitudes for those of the input axis"
)
_WRONG_NORM = "divides by the norm of the base weight: loses a tenth to a half of the effect"

WHERE: Mapping[tuple[Layout, NormAxis | None], Rendering] = {
    ("kohya", None): Rendering(
        (COMFYUI, FORGE, A1111, SDNEXT, INVOKEAI, LYCORIS, DIFFUSERS, SDCPP, SDSCRIPTS), {}, "at every strength"
    ),
    ("kohya", "input"): Rendering(
        (COMFYUI, FORGE, A1111, SDNEXT, INVOKEAI, LYCORIS),
        _PLAIN,
        "at every strength; in LyCORIS at strength 1, in a network built with wd_on_output=False",
    ),
    ("kohya", "output"): Rendering(
        (SDNEXT, LYCORIS),
        {COMFYUI: _WRONG_NORM, FORGE: _WRONG_NORM, **_GARBAGE, **_PLAIN},
        "LyCORIS from 3.2 and at strength 1, SD.Next from May 2026",
    ),
    ("kohya-compensated", "output"): Rendering(
        (COMFYUI, FORGE),
        {SDNEXT: "magnitudes off", LYCORIS: "magnitudes off", **_GARBAGE, **_PLAIN},
        "in today's versions, and on the one base model that it was made for",
    ),
    ("peft", None): Rendering((PEFT,), {}, "at every strength"),
    ("peft", "output"): Rendering((PEFT,), {}, "at strength 1"),
    ("diff", None): Rendering(
        (COMFYUI, FORGE, A1111, SDNEXT, INVOKEAI, SDCPP), {}, "at every strength; as large as the model"
    ),
}


def rendering(layout: Layout, form: Form) -> Rendering:
    """What is known of that kind of file; a difference is one whatever it came from, and full ones are nothing else."""
    return WHERE[layout, None if layout == "diff" or form == "full" else form]
