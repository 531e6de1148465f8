"""Cells of a comparison against diffusers with weights merged by formulas that are written out here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dora_core.spec import NormAxis
from dora_core.state import AdapterState
from tests.adapters import random_adapter
from trainer.base_weights import BaseModel, open_base
from trainer.compare.comparison import compare
from trainer.compare.manifest import ColumnEntry, Manifest, read_manifest
from trainer.compare.request import Request
from trainer.export import TARGETS, export_adapter
from trainer.home import Home
from trainer.store import Store

BLOCK = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
ADAPTED = [
    *(f"{BLOCK}.attn2.to_q", f"{BLOCK}.attn2.to_v", f"{BLOCK}.ff.net.2", "unet.mid_block.resnets.0.conv1"),
    "text_encoder.text_model.encoder.layers.1.self_attn.q_proj",
]
# File by target and axis, with the formula that its own program merges it by: of W, D, m and the strength s.
Formula = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def norm(weight: Tensor, axis: int) -> Tensor:
    return weight.square().sum([d for d in range(weight.dim()) if d != axis], keepdim=True).sqrt()


FILES: Mapping[str, tuple[NormAxis | None, Formula]] = {
    "comfyui": (None, lambda w, d, m, s: w + s * d),
    "comfyui of the input axis": ("input", lambda w, d, m, s: w + s * ((w + d) * m / norm(w + d, 1) - w)),
    "comfyui-compensated": ("output", lambda w, d, m, s: w + s * ((w + d) * m / norm(w, 0) - w)),
    "lycoris": ("output", lambda w, d, m, s: (w + d) * (1 + s * (m / norm(w + d, 0) - 1))),
    "diffusers": ("output", lambda w, d, m, s: (w + s * d) * m / norm(w + s * d, 0)),
}
STRENGTHS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Callable[[str], Path]) -> Path:
    place = tmp_path_factory.mktemp("drawn")
    base = open_base(tiny_base("sd1"))
    files = [exported(name, base, place) for name in FILES]
    request = Request(
        sources=tuple(map(str, files)),
        base=str(base.path),
        strengths=STRENGTHS,
        prompts=("a thing",),
        seeds=(7,),
        steps=(2,),
        guidance=(3.0,),
        size_px=(32, 40),
        negative="blue",
    )
    return compare(request, Store(Home(place / "home")), place / "out")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


def exported(name: str, base: BaseModel, place: Path) -> Path:
    axis, _ = FILES[name]
    target = TARGETS[name.partition(" ")[0]]
    state = large_adapter(base, axis)
    path = place / f"{name}{target.ending}".replace(" ", "-")
    return export_adapter(state, base.weights, base.modules, target, path).path


def large_adapter(base: BaseModel, axis: NormAxis | None) -> AdapterState:
    """Large enough that each formula draws something else."""
    return random_adapter({name: base.weights[name] for name in ADAPTED}, axis, size=0.8, drift=0.4)


def cells(manifest: Manifest) -> Iterator[tuple[int, ColumnEntry]]:
    return ((number, column) for number, column in enumerate(manifest.columns) if column.file)


def picture(folder: Path, manifest: Manifest, column: int) -> Tensor:
    with Image.open(folder / manifest.cell(0, column).picture) as image:
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).double()


@torch.no_grad()
def by_diffusers(base: Path, weights: Mapping[str, Tensor]) -> Tensor:
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    modules = {f"unet.{path}": module for path, module in pipeline.unet.named_modules()} | {
        f"text_encoder.text_model.{path.removeprefix('text_model.')}": module  # which transformers' versions differ in
        for path, module in pipeline.text_encoder.named_modules()
    }
    for name, weight in weights.items():
        modules[name].weight.copy_(weight)
    drawn = pipeline(
        "a thing",
        negative_prompt="blue",
        generator=torch.Generator().manual_seed(7),
        num_inference_steps=2,
        guidance_scale=3.0,
        width=32,
        height=40,
    )
    assert not isinstance(drawn, tuple)
    image = drawn.images[0]
    assert isinstance(image, Image.Image)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).double()


def in_file(path: Path, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """down, up times its scale, and m (1 where there is none), by the file's own keys."""
    tensors = {key: value.double() for key, value in load_file(path).items()}
    part, _, module = name.partition(".")
    kohya = f"{'lora_unet' if part == 'unet' else 'lora_te'}_{module.replace('.', '_')}"
    if f"{kohya}.alpha" in tensors:
        down, up = tensors[f"{kohya}.lora_down.weight"], tensors[f"{kohya}.lora_up.weight"]
        magnitude = tensors.get(f"{kohya}.dora_scale", torch.ones(()))
        return down, up * tensors[f"{kohya}.alpha"] / down.shape[0], magnitude
    magnitude = tensors[f"{name}.lora_magnitude_vector.weight"]
    up = tensors[f"{name}.lora_B.weight"]
    return tensors[f"{name}.lora_A.weight"], up, magnitude.reshape(-1, *[1] * (up.dim() - 1))


def test_every_cell_is_what_diffusers_draws_with_the_weights_that_its_own_program_merges(
    folder: Path, manifest: Manifest, tiny_base: Callable[[str], Path]
) -> None:
    base = open_base(tiny_base("sd1"))
    assert (picture(folder, manifest, 0) - by_diffusers(base.path, {})).abs().max() <= 1
    for (number, column), (name, strength) in zip(
        cells(manifest), ((name, s) for name in FILES for s in STRENGTHS), strict=True
    ):
        merged = {}
        for layer in ADAPTED:
            down, up, magnitude = in_file(Path(column.file or ""), layer)
            weight = base.weights[layer].double()
            delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            merged[layer] = FILES[name][1](weight, delta, magnitude, strength)
        ours = picture(folder, manifest, number)
        assert (ours - by_diffusers(base.path, merged)).abs().max() <= 1, column.title
        if strength == 1:
            assert (ours - picture(folder, manifest, 0)).abs().max() > 20, f"{column.title} shows nothing"


def test_strength_0_is_the_base_to_the_bit_or_a_note_says_that_it_is_not(folder: Path, manifest: Manifest) -> None:
    base = picture(folder, manifest, 0)
    told = {title for note in manifest.notes for title in note.partition(":")[0].split("; ")}
    for number, column in cells(manifest):
        if column.strength == 0:
            is_base = torch.equal(picture(folder, manifest, number), base)
            assert is_base == (column.consumer == "comfyui" or column.kind == "lora")
            assert is_base == (manifest.cell(0, number).distance == 0)
            assert is_base != (column.title in told)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert all(note in page for note in manifest.notes)


def test_distances_are_root_mean_squares_of_the_pictures_that_are_there(folder: Path, manifest: Manifest) -> None:
    base = picture(folder, manifest, 0)
    for number, column in cells(manifest):
        error = ((picture(folder, manifest, number) - base) / 255).square().mean().sqrt()
        assert manifest.cell(0, number).distance == pytest.approx(float(error), rel=1e-9)
        assert column.distance == pytest.approx(float(error), rel=1e-9)


def test_a_column_names_its_file_and_the_program_whose_formula_drew_it(manifest: Manifest) -> None:
    at_full = [column for column in manifest.columns if column.strength == 1]
    assert [column.consumer for column in at_full] == ["comfyui", "comfyui", "comfyui", "lycoris", "diffusers"]
    assert [(column.kind, column.norm_axis) for column in at_full] == [
        ("dora" if axis else "lora", axis) for axis, _ in FILES.values()
    ]
    assert all(column.ranks == (3,) and column.headline for column in at_full)
    assert len({column.title for column in manifest.columns}) == len(manifest.columns)


def test_every_picture_says_what_it_was_drawn_with(folder: Path, manifest: Manifest) -> None:
    for number, column in cells(manifest):
        with Image.open(folder / manifest.cell(0, number).picture) as image:
            said = json.loads(image.info["dora_studio"])
        assert (said["prompt"], said["negative"], said["seed"], said["steps"]) == ("a thing", "blue", 7, 2)
        assert (said["strength"], said["sha256"]) == (column.strength, column.sha256)


def test_changes_by_layer_are_those_of_the_dense_weights(manifest: Manifest, tiny_base: Callable[[str], Path]) -> None:
    """Of the paper's section 3: vectors are columns on the input axis, rows on the output axis."""
    base = open_base(tiny_base("sd1"))
    for entry, (name, (axis, merged)) in zip(manifest.analysis, FILES.items(), strict=True):
        kept = 1 if (axis or "input") == "input" else 0
        path = next(column.file for column in manifest.columns if column.source == entry.source)
        for layer in entry.layers:
            down, up, magnitude = in_file(Path(path or ""), layer.name)
            weight = base.weights[layer.name].double()
            delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            changed = merged(weight, delta, magnitude, 1.0)
            lengths, cosines = norm(changed, kept), torch.nn.functional.cosine_similarity
            vectors = weight.transpose(0, kept).flatten(1), changed.transpose(0, kept).flatten(1)
            assert layer.magnitude_change == pytest.approx(float((lengths - norm(weight, kept)).abs().mean()), rel=1e-5)
            assert layer.direction_change == pytest.approx(float((1 - cosines(*vectors)).mean()), rel=1e-5), name
