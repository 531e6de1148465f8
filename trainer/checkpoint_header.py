"""What one checkpoint file says of itself by its header: its parts, what it predicts, and why it may be unfit."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Mapping
from pathlib import Path

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, Detection, Prediction, detect_family
from dora_core.header import Header, Shape, TensorEntry

# Where the parts lie: the names that the original training code gave them.
CHECKPOINT_PARTS: Mapping[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
LATENT_CHANNELS = 4  # of all released models
UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
OTHER_NOISE = ("edm_mean", "edm_vpred.sigma_max")  # marks of Playground 2.5 and of CosXL
_OLD_TEXT = "cond_stage_model.transformer."
_SD2_TELLTALE = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def modern_name(key: str) -> str:
    """The key as files have it today: transformers before 4.0 had no ``text_model.`` in the names of SD 1's encoder."""
    if key.startswith(_OLD_TEXT) and not key.startswith(f"{_OLD_TEXT}text_model."):
        return f"{_OLD_TEXT}text_model.{key.removeprefix(_OLD_TEXT)}"
    return key


def require_checkpoint(file: Path, header: Header) -> Detection:
    """Family and prediction; FileFormatError, with what to do, for what is no whole ordinary model."""
    detection = detect_family(header.shapes, header.metadata)
    if detection is None:
        raise FileFormatError(f"{file} is a checkpoint of none of {', '.join(FAMILIES)}: give another base model")
    parts = {part for part, prefixes in CHECKPOINT_PARTS.items() if any(k.startswith(prefixes) for k in header.tensors)}
    if "unet" not in parts:
        raise FileFormatError(f"{file} holds no UNet (an adapter?): give the whole checkpoint as base model")
    for component in FAMILIES[detection.family].components:
        if component.name not in parts:
            raise FileFormatError(f"{file} holds no {component.name}: give the whole checkpoint as base model")
    if noise := [key for key in OTHER_NOISE if key in header.tensors]:
        raise FileFormatError(
            f"{file} was made for another kind of noise (EDM, says its entry {noise[0]}), which is not supported: give "
            "a model that predicts epsilon or v"
        )
    require_ordinary_input(file, header.shapes.get(UNET_INPUT))
    return detection


def require_ordinary_input(file: Path, unet_input: Shape | None, latent_channels: int = LATENT_CHANNELS) -> None:
    """`unet_input`: shape of the UNet's first weight. FileFormatError for inpainting models and their like."""
    channels = latent_channels if unet_input is None else unet_input[1]
    if channels != latent_channels:
        raise FileFormatError(
            f"{file} takes {channels} channels, a latent has {latent_channels}: it is an inpainting, depth or editing "
            "model. Train on the ordinary model that it was made from; the adapter renders on both"
        )


def ends_in_noise(header: Header) -> bool:
    """Checkpoints trained with zero terminal SNR carry an entry `ztsnr` by custom."""
    return "ztsnr" in header.tensors


def sd2_prediction(file: Path, header: Header) -> Prediction | None:
    """Of an SD 2 checkpoint that does not say it, by the spread of one bias, which ComfyUI tells the two apart by."""
    entry = header.tensors.get(_SD2_TELLTALE)
    values = None if entry is None else _values(file, entry)
    if not values:
        return None
    return "v" if statistics.pstdev(values) > 0.09 else "epsilon"


def _values(file: Path, entry: TensorEntry) -> list[float]:
    """[] for a type that takes more than a word to read."""
    with file.open("rb") as source:
        data_start = 8 + int.from_bytes(source.read(8), "little")
        source.seek(data_start + entry.start)
        data = source.read(entry.stop - entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[start : start + 2] for start in range(0, len(data), 2))
    kind = {"F16": "e", "BF16": "f", "F32": "f"}.get(entry.dtype)
    return [] if kind is None else [value for (value,) in struct.iter_unpack(f"<{kind}", data)]
