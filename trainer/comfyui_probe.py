"""Runs inside a user's ComfyUI, with its Python: what does its own code make of an adapter file?

    python comfyui_probe.py JOB.json

ComfyUI's names of the model's weights, its reading of the file and its arithmetic come from its `comfy` package; the
base weights and the ideal to compare with come from ours. The answer is a file of numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    sys.path.insert(0, job["comfyui"])  # its folder `app` goes before any other
    sys.path.append(job["package_root"])  # and its torch before ours
    import_module("comfy.cli_args").args.cpu = True  # before anything looks for a card
    Path(job["answer"]).write_text(json.dumps(answer(job["file"], job["base"])), encoding="utf-8")


def answer(file: str, base_path: str) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - ComfyUI's own, which is only on the path by now

    from dora_core.parity import STRENGTHS, Ideal, intended_by_file, read_stored  # noqa: PLC0415 - likewise
    from trainer.base_weights import open_base  # noqa: PLC0415 - likewise

    lora = import_module("comfy.lora")
    base = open_base(base_path)
    stored = read_stored(file, base.modules)
    intended = intended_by_file(stored)
    keys = _weight_keys(base.modules, stored.file_names)
    patches = lora.load_lora(import_module("comfy.utils").load_torch_file(file, safe_load=True), keys.names)
    errors: dict[str, list[float]] = {}
    for name in stored.layers:
        ideal = Ideal.of(name, base.weights[name], intended)
        errors[name] = []
        for strength in STRENGTHS:
            weight = base.weights[name].float()
            if (patch := patches.get(keys.weight_of[name])) is not None:
                weight = lora.calculate_weight([(strength, patch, 1.0, None, None)], weight, name, torch.float32)
            errors[name].append(ideal.error(weight, strength))
    return {
        "version": getattr(_optional("comfyui_version"), "__version__", None),
        "names_checked": keys.are_its_own,
        "unmatched": sorted(name for name in stored.layers if keys.weight_of[name] not in patches),
        "strengths": STRENGTHS,
        "errors": errors,
    }


@dataclass(frozen=True)
class _Keys:
    names: dict[str, str]  # name in a file -> ComfyUI's name of the weight
    weight_of: dict[str, str]  # neutral name -> ComfyUI's name of the weight
    are_its_own: bool


def _weight_keys(modules: Any, file_names: Mapping[str, str]) -> _Keys:
    """ComfyUI's tables for a model of this family; for sizes that it cannot load, the file's own names stand in."""
    detection = import_module("comfy.model_detection")
    shapes = {name: SimpleNamespace(shape=shape) for name, shape in modules.shapes.items()}
    unet = {f"{name.removeprefix('unet.')}.weight": s for name, s in shapes.items() if name.startswith("unet.")}
    config = detection.unet_config_from_diffusers_unet(unet)
    if config is None:
        return _Keys({file: name for name, file in file_names.items()}, {name: name for name in file_names}, False)
    originals = import_module("comfy.utils").unet_to_diffusers(config)
    weight_of = {
        f"unet.{key.removesuffix('.weight')}": f"diffusion_model.{original}"
        for key, original in originals.items()
        if key.endswith(".weight")
    } | dict(_text_weights(modules))
    model = SimpleNamespace(
        state_dict=lambda: dict.fromkeys(weight_of.values()), model_config=SimpleNamespace(unet_config=config)
    )
    lora = import_module("comfy.lora")
    names = lora.model_lora_keys_unet(model, {})
    return _Keys(lora.model_lora_keys_clip(model, names), weight_of, True)


def _text_weights(modules: Any) -> Iterator[tuple[str, str]]:
    prefixes = {c.name: c.comfy_prefix.removeprefix("text_encoders.") for c in modules.family.components}
    for name in modules.shapes:
        component, _, path = name.partition(".")
        if component != "unet":
            yield name, f"{prefixes[component]}.{path}.weight"


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    main(sys.argv[1])
