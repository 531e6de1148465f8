"""The kinds of files that an adapter can be exported as. Torch-free: the page and --help show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dora_core.layouts import NAME_ENDINGS, Layout
from dora_core.rendering import rendering
from dora_core.spec import Form

TargetName = Literal["comfyui", "comfyui-compensated", "lycoris", "diffusers", "diff", "merged"]  # the last: a folder


@dataclass(frozen=True)
class ExportTarget:
    """A kind of file that we offer: its layout, and the consumer that it has to be exact for."""

    name: TargetName
    layout: Layout
    consumer: str  # key in dora_core.consumers
    forms: frozenset[Form]  # of adapters that it can hold

    @property
    def ending(self) -> str:
        return NAME_ENDINGS[self.layout]

    def renders_in(self, form: Form) -> str:
        """Where the file of such an adapter renders as trained, in words."""
        where = rendering(self.layout, form)
        return f"{'; '.join(where.exact)} ({where.condition})"


_LORA: frozenset[Form] = frozenset({None})
_OUTPUT: frozenset[Form] = frozenset({"output"})
_INPUT: frozenset[Form] = frozenset({"input"})
_FULL: frozenset[Form] = frozenset({"full"})

TARGETS: Mapping[str, ExportTarget] = {
    target.name: target
    for target in (
        ExportTarget("comfyui", "kohya", "comfyui", _LORA | _INPUT),
        ExportTarget("comfyui-compensated", "kohya-compensated", "comfyui", _OUTPUT),
        ExportTarget("lycoris", "kohya", "lycoris", _LORA | _INPUT | _OUTPUT),
        ExportTarget("diffusers", "peft", "diffusers", _LORA | _OUTPUT),
        ExportTarget("diff", "diff", "comfyui", _LORA | _INPUT | _OUTPUT | _FULL),
    )
}

# What a finished run is exported for. The first file is the one that it is compared by.
FINISHING: Mapping[Form, tuple[TargetName, ...]] = {
    None: ("comfyui",),  # which everything reads
    "input": ("comfyui",),
    "output": ("lycoris", "comfyui-compensated", "diffusers"),  # no one program's file is exact in another
    "full": ("diff",),
}


def finishing_targets(form: Form) -> Sequence[ExportTarget]:
    return [TARGETS[name] for name in FINISHING[form]]
