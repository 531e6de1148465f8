"""What a file or folder is, told from headers alone: kind, family, sizes, where it renders as trained. Torch-free."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, ModelModules, detect_family, shipped_modules
from dora_core.header import Header, read_header
from dora_core.keymap import spellings
from dora_core.layouts import AdapterInfo, Role, inspect_header
from dora_core.rendering import Rendering, rendering
from dora_core.resolution import unresolved_modules
from trainer.base_files import look_up

STATE_MARK = "dora_studio.state"  # in the metadata of a checkpoint's adapter


@dataclass(frozen=True)
class Description:
    title: str
    facts: Mapping[str, str]
    rendering: Rendering | None = None  # None: no adapter, or one of a kind that no program is known to read
    notes: tuple[str, ...] = field(default=())


def describe(path: Path) -> Description:
    """Raises FileFormatError, with the reason, for what is neither an adapter nor a model that we know."""
    if path.is_dir():
        return _base_model(path)
    header = read_header(path)
    if STATE_MARK in header.metadata:
        return Description(
            "Adapter in training: a checkpoint's exact numbers, which no other program reads",
            {"size": _size(path), "layers": str(len(json.loads(header.metadata["alphas"])))},
            notes=("export the run that it belongs to: dora-studio export RUN",),
        )
    try:
        info = inspect_header(header)
    except FileFormatError:
        if (part := _part_of_a_model(path, header)) is not None:
            return part
        raise
    return _adapter(path, header, info)


def is_model(path: Path) -> bool:
    """Whether it is a whole model, as a diffusers folder or a checkpoint file."""
    if path.is_dir():
        return (path / "unet").is_dir()
    return path.is_file() and _is_checkpoint(read_header(path))


def _is_checkpoint(header: Header) -> bool:
    return any(key.startswith("model.diffusion_model.") for key in header.shapes)


def _base_model(path: Path) -> Description:
    facts = look_up(str(path))
    family = "unknown" if facts.family is None else facts.family.title
    millions = {part: f"{count / 1e6:,.1f} million parameters" for part, count in facts.parameters.items()}
    return Description(
        f"Base model of {family}",
        {**millions, "prediction": facts.prediction or "not stated", "modules to adapt": str(len(facts.shapes))},
    )


def _part_of_a_model(path: Path, header: Header) -> Description | None:
    if _is_checkpoint(header):
        return _base_model(path)
    detection = detect_family(header.shapes, header.metadata)
    if detection is None or not any(key.startswith(("conv_in.", "input_blocks.")) for key in header.shapes):
        return None
    return Description(f"UNet of {FAMILIES[detection.family].title}, without the rest", {"size": _size(path)})


def _adapter(path: Path, header: Header, info: AdapterInfo) -> Description:
    family = None if info.detection is None else FAMILIES[info.detection.family]
    facts = {
        "family": "not recognised" if family is None else family.title,
        "layout": _LAYOUTS[info.layout],
        "rank": ", ".join(map(str, info.ranks)) or "full",
        "layers": _layers(info),
        "stored as": _precisions(header, info),
        "size": _size(path),
        **{label: info.metadata[key] for label, key in _METADATA.items() if info.metadata.get(key)},
    }
    where = None if info.layout == "other" else _with_unresolved(rendering(info.layout, info.norm_axis), info)
    return Description(f"{_kind(info)}", facts, where, tuple(_notes(header, info)))


_LAYOUTS = {
    "kohya": "names of sd-scripts and LyCORIS",
    "kohya-compensated": "names of sd-scripts and LyCORIS, magnitudes compensated for ComfyUI",
    "peft": "names of PEFT and diffusers",
    "diff": "full differences of weights",
    "other": "a mixture of several layouts: export it again to use it elsewhere",
}
_BASE_MODEL = "dora_studio.base_model"
_METADATA = {
    "title": "modelspec.title",
    "trained with": "ss_network_module",
    "base model": _BASE_MODEL,
    "base model's SHA-256": "dora_studio.base_model_sha256",
    "base model, as sd-scripts calls it": "ss_base_model_version",
    "trigger phrase": "modelspec.trigger_phrase",
    "date": "modelspec.date",
    "proof": "dora_studio.parity",
}


def _kind(info: AdapterInfo) -> str:
    if info.layout == "diff":
        return "Full difference W' - W0, one per adapted weight"
    if info.norm_axis is None:
        return "LoRA"
    return f"DoRA, norm over the {info.norm_axis} axis"


def _modules(info: AdapterInfo) -> ModelModules | None:
    """What the file's names are looked up in: the family's released models, or the starter, which is smaller."""
    if info.detection is None:
        return None
    released = shipped_modules(info.detection.family)
    is_for_starter = info.metadata.get(_BASE_MODEL) == "starter"
    return replace(released, shapes=look_up("starter").shapes) if is_for_starter else released


def _layers(info: AdapterInfo) -> str:
    """Counts by component, as far as the family is known."""
    if (modules := _modules(info)) is None:
        return str(len(info.modules))
    known = spellings(modules)
    components = Counter(known.get(name, "unknown").partition(".")[0] for name in info.modules)
    return f"{len(info.modules)}: " + ", ".join(f"{count} {name}" for name, count in sorted(components.items()))


def _precisions(header: Header, info: AdapterInfo) -> str:
    factors, magnitudes = (_dtypes(header, info, roles) for roles in (_FACTORS, _MAGNITUDES))
    return f"{', '.join(sorted(factors))}" + (f"; magnitudes {', '.join(sorted(magnitudes))}" if magnitudes else "")


_FACTORS: tuple[Role, ...] = ("down", "up", "mid", "diff")
_MAGNITUDES: tuple[Role, ...] = ("dora_scale", "peft_magnitude")


def _dtypes(header: Header, info: AdapterInfo, roles: tuple[Role, ...]) -> set[str]:
    modules = info.modules.values()
    return {header.tensors[module.keys[role]].dtype for module in modules for role in roles if role in module.keys}


def _with_unresolved(where: Rendering, info: AdapterInfo) -> Rendering:
    """Programs that do not find all modules under the file's names move to the wrong ones."""
    if (modules := _modules(info)) is None:
        return where
    lost = {program: len(unresolved_modules(program, info, modules)) for program in where.exact}
    blind = {
        program: f"leaves {count} of {len(info.modules)} layers out: it does not know their names"
        for program, count in lost.items()
        if count
    }
    exact = tuple(program for program in where.exact if program not in blind)
    return Rendering(exact, {**blind, **where.wrong}, where.condition)


_COARSE: tuple[tuple[tuple[Role, ...], str, str], ...] = (
    (_MAGNITUDES, "F16", "magnitudes are rounded to F16, by up to 0.05 %: training may have changed some by less"),
    (_MAGNITUDES, "BF16", "magnitudes are rounded to BF16, by up to 0.4 %: training may have changed most by less"),
    (_FACTORS, "BF16", "factors are rounded to BF16, by up to 0.4 %"),
)


def _notes(header: Header, info: AdapterInfo) -> list[str]:
    notes = [note for roles, dtype, note in _COARSE if dtype in _dtypes(header, info, roles)]
    if (modules := _modules(info)) is not None:
        unknown = sorted(info.modules.keys() - spellings(modules).keys())
        if unknown:
            notes.append(f"{len(unknown)} layers are in no released model of the family, first {unknown[0]}")
    return notes


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:,.1f} MiB"
