"""What a file says about itself in its header, in the words that other programs read. Free of torch.

``ss_*`` are sd-scripts' keys (A1111, SD.Next and LoRA managers read them), ``modelspec.*`` those of Stability's model
metadata standard, ``dora_studio.*`` our own. All values are strings. Nothing here looks at a clock or at the machine:
the same facts give the same metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from dora_core.families import Family, Prediction
from dora_core.layouts import Layout
from dora_core.spec import Kind, NormAxis
from dora_core.version import __version__

OWN_PREFIX = "dora_studio."


@dataclass(frozen=True)
class About:
    """What only the caller knows about an adapter."""

    title: str | None = None  # None: the file's name
    base_model: str | None = None
    base_model_sha256: str | None = None  # a DoRA is right on the base it was trained on, and on no other
    prediction: Prediction = "epsilon"
    date: str | None = None  # ISO 8601
    trigger_phrase: str | None = None
    clip_skip: int | None = None  # as ComfyUI and A1111 count; None: as the base model was made for
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])  # our own keys, without their prefix


def stated_clip_skip(metadata: Mapping[str, str]) -> int | None:
    """Of a file that we wrote."""
    stated = metadata.get(f"{OWN_PREFIX}clip_skip")
    return int(stated) if stated and stated.isdigit() else None


@dataclass(frozen=True)
class Contents:
    """What a file holds, as its metadata state it."""

    family: Family
    layout: Layout
    kind: Kind
    norm_axis: NormAxis | None
    ranks: frozenset[int]  # of linear layers and 1x1 convolutions, which sd-scripts counts as linear
    conv_ranks: frozenset[int]  # of larger kernels


def file_metadata(file_stem: str, contents: Contents, about: About) -> dict[str, str]:
    """All metadata but the hashes, which need the tensors."""
    entries = _model_spec(about.title or file_stem, contents.family, about) | _own(contents, about)
    if contents.layout != "peft":  # diffusers and PEFT read no ss_ keys, and the module they name never wrote this file
        entries |= _sd_scripts(file_stem, contents, about)
    return dict(sorted(entries.items()))


def _model_spec(title: str, family: Family, about: About) -> dict[str, str]:
    side = family.resolution_px[about.prediction]
    optional = {"date": about.date, "trigger_phrase": about.trigger_phrase}
    entries = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{family.model_spec[about.prediction]}/lora",
        "implementation": family.implementation,
        "title": title,
        "resolution": f"{side}x{side}",
        "prediction_type": about.prediction,
        **{key: value for key, value in optional.items() if value is not None},
    }
    return {f"modelspec.{key}": value for key, value in entries.items()}


def _sd_scripts(output_name: str, contents: Contents, about: About) -> dict[str, str]:
    """Alpha is folded into the factors, so that the file's alpha is its rank."""
    entries = {
        "ss_base_model_version": contents.family.base_version[about.prediction],
        "ss_v2": str(contents.family.base_version[about.prediction].startswith("sd_v2")),
        "ss_output_name": output_name,
    }
    if about.clip_skip is not None:
        entries["ss_clip_skip"] = str(about.clip_skip)
    arguments = _network_arguments(contents)
    is_plain = contents.norm_axis is None and contents.layout != "diff"
    entries["ss_network_module"] = "networks.lora" if is_plain else "lycoris.kohya"
    if contents.layout != "diff":
        entries["ss_network_dim"] = entries["ss_network_alpha"] = _one_rank(contents.ranks or contents.conv_ranks)
    if arguments:
        entries["ss_network_args"] = json.dumps(arguments, sort_keys=True)
    return entries


def _network_arguments(contents: Contents) -> dict[str, str]:
    """As one would type them for sd-scripts: strings all. `wd_on_output` is where a file's norm axis is on record."""
    if contents.layout == "diff":
        return {"algo": "full"}
    arguments: dict[str, str] = {}
    if contents.conv_ranks:
        arguments["conv_dim"] = arguments["conv_alpha"] = _one_rank(contents.conv_ranks)
    if contents.norm_axis is not None:
        arguments |= {"algo": "lora", "dora_wd": "True", "wd_on_output": str(contents.norm_axis == "output")}
    return arguments


def _one_rank(ranks: frozenset[int]) -> str:
    """sd-scripts' own word for a file of several ranks is Dynamic."""
    return str(next(iter(ranks))) if len(ranks) == 1 else "Dynamic"


def _own(contents: Contents, about: About) -> dict[str, str]:
    facts = {
        **about.provenance,
        "version": __version__,
        "family": contents.family.name,
        "layout": contents.layout,
        "kind": contents.kind,
        "norm_axis": contents.norm_axis,
        "base_model": about.base_model,
        "base_model_sha256": about.base_model_sha256,
        "clip_skip": None if about.clip_skip is None else str(about.clip_skip),
        "renders_in": _COMPENSATED if contents.layout == "kohya-compensated" else None,
    }
    return {f"{OWN_PREFIX}{key}": value for key, value in facts.items() if value is not None}


_COMPENSATED = (
    "only ComfyUI (0.3.30 to at least 0.12.1) and Forge, on this base model: dora_scale is multiplied by "
    "norm(W0) / norm(W0 + delta), because they divide by norm(W0)"
)
