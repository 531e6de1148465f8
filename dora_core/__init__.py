"""LoRA and DoRA as a library. Names are loaded when they are first used: importing the package loads no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_core.adapter import Adapter as Adapter
    from dora_core.injection import eject as eject
    from dora_core.injection import inject as inject
    from dora_core.layers import DoraLayer as DoraLayer
    from dora_core.layers import LoraLayer as LoraLayer
    from dora_core.spec import AdapterSpec as AdapterSpec
    from dora_core.spec import TargetRule as TargetRule
    from dora_core.state import AdapterState as AdapterState
    from dora_core.state import LayerWeights as LayerWeights
    from dora_core.targets import iter_targets as iter_targets
    from dora_core.targets import plan_targets as plan_targets

_HOMES = {
    "Adapter": "adapter",
    "AdapterSpec": "spec",
    "AdapterState": "state",
    "DoraLayer": "layers",
    "LayerWeights": "state",
    "LoraLayer": "layers",
    "TargetRule": "spec",
    "eject": "injection",
    "inject": "injection",
    "iter_targets": "targets",
    "plan_targets": "targets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dora_core' has no attribute {name!r}")
    return getattr(import_module(f"dora_core.{_HOMES[name]}"), name)
