"""Where PEFT and diffusers keep an adapter's alpha: not among its tensors. Free of torch.

diffusers writes the configuration as JSON into the metadata, each key behind its component (``unet.lora_alpha``); PEFT
writes it beside the tensors, into adapter_config.json. In diffusers' files without one, alpha is the rank.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dora_core.errors import FileFormatError

_METADATA_KEY = "lora_adapter_metadata"
_PEFT_PREFIX = "base_model.model."


def peft_alphas(
    path: str | os.PathLike[str], metadata: Mapping[str, str], names: Mapping[str, str]
) -> dict[str, Callable[[int], float]]:
    """Neutral name -> the effective alpha of a rank; `names` are those in the file at `path` with the neutral ones."""
    if any(name.startswith(_PEFT_PREFIX) for name in names):
        beside = Path(path).with_name("adapter_config.json")
        if not beside.exists():
            raise FileFormatError(
                f"{os.fspath(path)}: PEFT keeps the adapter's alpha in {beside.name}: put it beside the file"
            )
        config = _json_object(beside.read_text(encoding="utf-8"), beside)
        return {name: _Scaling(config, "", name).alpha for name in names.values()}
    config = _json_object(metadata.get(_METADATA_KEY, "{}"), path)
    return {name: _Scaling(config, f"{name.partition('.')[0]}.", name).alpha for name in names.values()}


@dataclass(frozen=True)
class _Scaling:
    config: Mapping[str, object]
    prefix: str  # of the configuration's keys: "" or the component with a dot
    name: str

    def alpha(self, rank: int) -> float:
        """By the first pattern that the module's path ends with, as in PEFT; rsLoRA's scale included."""
        patterns = cast(Mapping[str, float], self.config.get(f"{self.prefix}alpha_pattern") or {})
        own = (value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", self.name))
        alpha = float(next(own, cast(float, self.config.get(f"{self.prefix}lora_alpha", rank))))
        return alpha * math.sqrt(rank) if self.config.get(f"{self.prefix}use_rslora") else alpha


def _json_object(text: str, path: str | os.PathLike[str]) -> dict[str, object]:
    try:
        return dict(cast(Mapping[str, object], json.loads(text)))
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{os.fspath(path)}: the adapter's configuration is no JSON object: {error}") from None
