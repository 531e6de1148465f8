"""The layouts of adapter files: which keys they have, and what a header says about its file. Free of torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Literal

from dora_core.errors import FileFormatError
from dora_core.families import Detection, detect_family
from dora_core.header import Header, Shape, read_header
from dora_core.spec import NormAxis

Layout = Literal["kohya", "kohya-compensated", "peft", "diff"]
Role = Literal["down", "up", "mid", "alpha", "dora_scale", "peft_magnitude", "diff"]

# What an exported file's name ends with, so that a file which only some programs render rightly says so.
NAME_ENDINGS: Mapping[Layout, str] = {
    "kohya": ".safetensors",
    "kohya-compensated": "-comfyui-compensated.safetensors",
    "peft": "-diffusers.safetensors",
    "diff": "-full-difference.safetensors",
}

_ROLES: Mapping[str, Role] = {
    "lora_down.weight": "down",  # sd-scripts, LyCORIS, OneTrainer
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",  # LyCORIS: Tucker decomposition of a convolution
    "alpha": "alpha",
    "dora_scale": "dora_scale",
    "lora_A.weight": "down",  # PEFT, diffusers
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_magnitude_vector.weight": "peft_magnitude",
    "lora_magnitude_vector.default.weight": "peft_magnitude",
    "lora_magnitude_vector": "peft_magnitude",  # as PEFT itself writes it
    "lora.down.weight": "down",  # diffusers before PEFT
    "lora.up.weight": "up",
    "diff": "diff",
}
_KEY = re.compile(rf"(?P<module>.+?)\.(?P<leaf>{'|'.join(map(re.escape, _ROLES))})")
_PEFT_LEAF = re.compile(r"lora_[AB]\.|lora_magnitude_vector")

_OTHER_ALGORITHMS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "boft": "BOFT",
    "on_input": "IA3",
    "a1.weight": "GLoRA",
    "lora_embedding": "an adapted embedding",
}


@dataclass(frozen=True)
class FileModule:
    """The keys of one module of a file by what they hold, and their shapes."""

    keys: Mapping[Role, str]
    shapes: Mapping[Role, Shape]

    def described(self, role: Role) -> str:
        return f"{self.keys[role]} {list(self.shapes[role])}"

    @property
    def rank(self) -> int:
        return self.shapes["up"][1]

    @property
    def weight_shape(self) -> Shape:
        """The shape of the weight that this module adapts. A Tucker core, where there is one, holds the kernel."""
        if "diff" in self.shapes:
            return self.shapes["diff"]
        kernel = self.shapes.get("mid", self.shapes["down"])[2:]
        return (self.shapes["up"][0], self.shapes["down"][1], *kernel)

    def possible_shapes(self) -> dict[Role, tuple[Shape, ...]]:
        """What the shapes of the parts can be, given the outer sizes of `up` and `down`."""
        (out, rank, *_), (_, inputs, *kernel) = self.shapes["up"], self.shapes["down"]
        ones = (1,) * len(kernel)
        core_rank, core_kernel = (rank, kernel) if "mid" not in self.shapes else (self.shapes["mid"][1], ones)
        return {
            "up": ((out, rank, *ones),),
            "mid": ((rank, core_rank, *self.weight_shape[2:]),),
            "down": ((core_rank, inputs, *core_kernel),),
            "alpha": ((), (1,)),
            "dora_scale": (magnitude_shape(self.weight_shape, "input"), magnitude_shape(self.weight_shape, "output")),
            "peft_magnitude": ((out,), (1, out, *ones)),
        }


@dataclass(frozen=True)
class AdapterInfo:
    """What a file's header says about it."""

    layout: Layout | Literal["other"]  # "other": a mixture that is read, but that we never write
    norm_axis: NormAxis | None  # None: plain LoRA, or differences
    detection: Detection | None  # None: no family of ours, or too little to tell
    modules: Mapping[str, FileModule]  # by the file's own names
    metadata: Mapping[str, str]

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks that occur, sorted; none in a file of differences."""
        return tuple(sorted({module.rank for module in self.modules.values() if "down" in module.shapes}))


def inspect_adapter(path: str | PathLike[str]) -> AdapterInfo:
    """What kind of adapter the file at `path` is; FileFormatError where it is none or of a kind that is not read."""
    header = read_header(path)
    try:
        return inspect_header(header)
    except FileFormatError as error:
        raise error.in_file(path) from None


def inspect_header(header: Header) -> AdapterInfo:
    modules = _modules(header.shapes)
    _check_types(header)
    _check_complete(modules)
    _check_shapes(modules)
    return AdapterInfo(
        layout=_layout(modules, header.metadata),
        norm_axis=_norm_axis(modules),
        detection=detect_family(header.shapes, header.metadata),
        modules=modules,
        metadata=header.metadata,
    )


def role_of(key: str) -> Role | None:
    """What the tensor under this key is to its module; None: nothing that belongs to a LoRA or DoRA."""
    match = _KEY.fullmatch(key)
    return None if match is None else _ROLES[match["leaf"]]


def magnitude_shape(weight: Shape, axis: NormAxis) -> Shape:
    """All dimensions of the weight, every one but the axis' own of size 1."""
    own = 0 if axis == "output" else 1
    return tuple(size if dimension == own else 1 for dimension, size in enumerate(weight))


def _modules(shapes: Mapping[str, Shape]) -> dict[str, FileModule]:
    keys: defaultdict[str, dict[Role, str]] = defaultdict(dict)
    unexpected: list[str] = []
    for key in sorted(shapes):
        match = _KEY.fullmatch(key)
        if match is None or _ROLES[match["leaf"]] in keys[match["module"]]:
            unexpected.append(key)
        else:
            keys[match["module"]][_ROLES[match["leaf"]]] = key
    if unexpected:
        raise FileFormatError(_why_unexpected(unexpected, bool(keys)), unexpected=unexpected)
    if not keys:
        raise FileFormatError("the file has no tensors")
    return {name: FileModule(roles, {role: shapes[key] for role, key in roles.items()}) for name, roles in keys.items()}


def _why_unexpected(unexpected: Iterable[str], has_modules: bool) -> str:
    keys = list(unexpected)
    for mark, algorithm in _OTHER_ALGORITHMS.items():
        if any(mark in key for key in keys):
            return (
                f"the file holds {algorithm}, which is neither LoRA nor DoRA: only the program that made it can use it"
            )
    if any(key.startswith("bundle_emb.") for key in keys):
        return (
            "the file carries embeddings beside the adapter, which are not read: export it without bundled embeddings"
        )
    if not has_modules:
        return "the file is no LoRA or DoRA adapter: none of its keys belongs to one"
    return "the file has keys that no LoRA or DoRA adapter has"


def _check_types(header: Header) -> None:
    integers = [
        f"{key} {entry.dtype}"
        for key, entry in header.tensors.items()
        if not entry.dtype.startswith(("F", "BF")) and role_of(key) != "alpha"  # which some write as a whole number
    ]
    if integers:
        raise FileFormatError("the file has whole numbers in place of weights", unexpected=integers)


def _check_complete(modules: Mapping[str, FileModule]) -> None:
    missing = [
        f"{name} ({role})"
        for name, module in modules.items()
        for role in ("down", "up")
        if "diff" not in module.keys and role not in module.keys
    ]
    is_dora = any({"dora_scale", "peft_magnitude"} & set(module.keys) for module in modules.values())
    if is_dora:
        missing += [
            f"{name} (magnitude)"
            for name, module in modules.items()
            if not {"dora_scale", "peft_magnitude", "diff"} & set(module.keys)
        ]
    differences = [name for name, module in modules.items() if "diff" in module.keys]
    mixed = [name for name, module in modules.items() if "diff" in module.keys and len(module.keys) > 1]
    if missing or mixed or 0 < len(differences) < len(modules):
        raise FileFormatError("the adapter is incomplete or mixes two kinds", missing=missing, unexpected=mixed)


def _check_shapes(modules: Mapping[str, FileModule]) -> None:
    weights: tuple[Role, ...] = ("up", "down", "mid", "diff")
    flat = [
        module.described(role)
        for module in modules.values()
        for role in weights
        if len(module.shapes.get(role, (0, 0))) not in (2, 4)
    ]
    if flat:
        raise FileFormatError("weights of Linear and Conv2d layers have 2 or 4 dimensions", wrong_shape=flat)
    wrong = {
        module.described(role): role
        for module in modules.values()
        if "diff" not in module.shapes
        for role, possible in module.possible_shapes().items()
        if role in module.shapes and module.shapes[role] not in possible
    }
    if wrong:
        one_dimensional = any(len(module.shapes.get("dora_scale", (0, 0))) == 1 for module in modules.values())
        raise FileFormatError(_WHY_NOT_FLAT if one_dimensional else _WHY_WRONG, wrong_shape=wrong)


_WHY_NOT_FLAT = (
    "the file has one-dimensional dora_scales: without the dimensions of size 1 nothing tells their norm axis, "
    "programs read them differently, and no convolution can use them. Export it again with full dimensions"
)
_WHY_WRONG = (
    "parts of a layer do not fit each other: up and down share the rank, and a dora_scale has the dimensions of the "
    "weight, all of size 1 but the first (output axis) or the second (input axis)"
)


def _layout(modules: Mapping[str, FileModule], metadata: Mapping[str, str]) -> Layout | Literal["other"]:
    if metadata.get("dora_studio.layout") == "kohya-compensated":
        return "kohya-compensated"
    if any("diff" in module.keys for module in modules.values()):
        return "diff"
    keys = [key for module in modules.values() for key in module.keys.values()]
    has_dots = ["." in name for name in modules]
    is_peft = [_PEFT_LEAF.search(key) is not None for key in keys]
    if not any(has_dots) and not any(is_peft):
        return "kohya"
    return "peft" if all(has_dots) and all(is_peft) else "other"


def _norm_axis(modules: Mapping[str, FileModule]) -> NormAxis | None:
    """The one axis of all magnitudes, told from their shapes. PEFT's layout knows the output axis only."""
    keys: dict[NormAxis, str] = {}
    for module in modules.values():
        if "peft_magnitude" in module.shapes:
            keys["output"] = module.keys["peft_magnitude"]
        elif "dora_scale" in module.shapes:
            is_input = module.shapes["dora_scale"] == magnitude_shape(module.weight_shape, "input")
            keys["input" if is_input else "output"] = module.keys["dora_scale"]
    if len(keys) == 2:
        raise FileFormatError(
            f"the file mixes both norm axes: {keys['input']} is of the input axis, {keys['output']} of the output axis"
        )
    return next(iter(keys), None)
