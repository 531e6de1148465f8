"""Workflows for ComfyUI, held against its own node declarations where they are at hand."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.workflow import embedded, why_not, workflow
from trainer.base_files import BaseFacts, look_up
from trainer.shot import Shot

SHOT = Shot("a panda, 3d style", "blurry", 2**40 + 1, 20, 6.5, 768, 512)
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# What ComfyUI's nodes.py and model_advanced.py require of each class, and what it gives.
INPUTS = {
    "CheckpointLoaderSimple": {"ckpt_name"},
    "DiffusersLoader": {"model_path"},
    "LoraLoader": {"model", "clip", "lora_name", "strength_model", "strength_clip"},
    "CLIPTextEncode": {"text", "clip"},
    "EmptyLatentImage": {"width", "height", "batch_size"},
    "KSampler": {
        *("model", "seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("positive", "negative", "latent_image", "denoise"),
    },
    "VAEDecode": {"samples", "vae"},
    "SaveImage": {"images", "filename_prefix"},
    "ModelSamplingDiscrete": {"model", "sampling", "zsnr"},
    "CLIPSetLastLayer": {"clip", "stop_at_clip_layer"},
    "VAELoader": {"vae_name"},
}
GIVES = {
    "CheckpointLoaderSimple": ("model", "clip", "vae"),
    "DiffusersLoader": ("model", "clip", "vae"),
    "LoraLoader": ("model", "clip"),
    "CLIPTextEncode": ("conditioning",),
    "EmptyLatentImage": ("latent",),
    "KSampler": ("latent",),
    "VAEDecode": ("image",),
    "ModelSamplingDiscrete": ("model",),
    "CLIPSetLastLayer": ("clip",),
    "VAELoader": ("vae",),
}
TAKES = {"samples": "latent", "latent_image": "latent", "positive": "conditioning", "negative": "conditioning"}


@pytest.fixture(params=["hub", "file", "v folder"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> BaseFacts:
    facts = look_up(SD15)
    if request.param == "hub":
        return facts
    if request.param == "file":
        path = tmp_path / "my model.safetensors"
        path.touch()
        return replace(facts, name=str(path), path=path)
    config = {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True, "use_karras_sigmas": True}
    (tmp_path / "v-model" / "scheduler").mkdir(parents=True)
    (tmp_path / "v-model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    folder = tmp_path / "v-model"
    return replace(facts, name=str(folder), path=folder, prediction="v", ends_in_noise=True)


def test_every_node_has_what_comfyui_requires_from_nodes_that_give_it(base: BaseFacts) -> None:
    nodes = workflow(base, "panda.safetensors", SHOT, clip_skip=2, vae="my.safetensors").nodes
    for node in nodes.values():
        assert node["inputs"].keys() == INPUTS[node["class_type"]]
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, number = value
                gives = GIVES[nodes[source]["class_type"]][number]
                assert gives == TAKES.get(name, name.removesuffix("s"))


def test_prompt_seed_size_and_strength_are_those_of_the_picture(base: BaseFacts) -> None:
    nodes = workflow(base, "panda.safetensors", SHOT, 0.75).nodes
    by_class = {node["class_type"]: node["inputs"] for node in nodes.values()}
    sampler, loader = by_class["KSampler"], by_class["LoraLoader"]
    assert nodes[sampler["positive"][0]]["inputs"]["text"] == SHOT.prompt
    assert nodes[sampler["negative"][0]]["inputs"]["text"] == SHOT.negative
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (SHOT.seed, 20, 6.5)
    assert (by_class["EmptyLatentImage"]["width"], by_class["EmptyLatentImage"]["height"]) == (768, 512)
    assert loader["lora_name"] == "panda.safetensors"
    assert loader["strength_model"] == loader["strength_clip"] == 0.75


def test_a_v_model_is_told_to_be_one_and_keeps_its_scheduler(tmp_path: Path) -> None:
    config = {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True, "use_karras_sigmas": True}
    (tmp_path / "scheduler").mkdir()
    config["prediction_type"] = "v_prediction"
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    facts = replace(look_up(SD15), name=str(tmp_path), path=tmp_path, prediction="v", ends_in_noise=True)
    made = workflow(facts, "a.safetensors", SHOT)
    assert made.nodes["9"]["inputs"] == {"sampling": "v_prediction", "zsnr": True, "model": ["2", 0]}
    assert made.nodes["6"]["inputs"]["model"] == ["9", 0]
    assert (made.nodes["6"]["inputs"]["sampler_name"], made.nodes["6"]["inputs"]["scheduler"]) == ("euler", "karras")
    assert not any("scheduler" in note for note in made.notes)


def test_a_checkpoint_that_says_v_is_sampled_as_here(tmp_path: Path) -> None:
    file = tmp_path / "noob.safetensors"
    file.touch()
    facts = replace(look_up("stabilityai/stable-diffusion-xl-base-1.0"), name=str(file), path=file)
    assert workflow(facts, "a.safetensors", SHOT).nodes["6"]["inputs"]["sampler_name"] == "euler"
    v = workflow(replace(facts, prediction="v", ends_in_noise=True), "a.safetensors", SHOT)
    assert v.nodes["6"]["inputs"]["sampler_name"] == "ddim"
    assert v.nodes["9"]["inputs"] == {"sampling": "v_prediction", "zsnr": True, "model": ["2", 0]}


def test_clip_skip_and_another_vae_are_in_the_graph(base: BaseFacts) -> None:
    made = workflow(base, "panda.safetensors", SHOT, clip_skip=2, vae="/models/soft vae.safetensors")
    for text in ("3", "4"):  # the prompt and the negative one
        clip = made.nodes[made.nodes[text]["inputs"]["clip"][0]]
        assert (clip["class_type"], clip["inputs"]["stop_at_clip_layer"]) == ("CLIPSetLastLayer", -2)
        assert clip["inputs"]["clip"] == ["2", 1]  # after the adapter
    loader = made.nodes[made.nodes["7"]["inputs"]["vae"][0]]
    assert (loader["class_type"], loader["inputs"]) == ("VAELoader", {"vae_name": "soft vae.safetensors"})
    assert any("models/vae, as soft vae.safetensors" in note for note in made.notes)
    assert "VAELoader" not in workflow(base, "panda.safetensors", SHOT).to_json()


def test_a_picture_with_the_workflow_in_it_is_the_same_picture(base: BaseFacts, tmp_path: Path) -> None:
    picture = tmp_path / "cell.png"
    Image.new("RGB", (6, 4), (1, 2, 3)).save(picture)
    made = workflow(base, "panda.safetensors", SHOT)
    (tmp_path / "with.png").write_bytes(embedded(picture, made))
    with Image.open(tmp_path / "with.png") as image:
        assert json.loads(image.text["prompt"]) == made.nodes  # type: ignore[attr-defined] - of PNG images
        assert image.tobytes() == Image.open(picture).tobytes()


def test_the_starter_has_none_and_the_reason_is_said() -> None:
    assert "smaller" in why_not(look_up("starter"))
    assert "cannot be told" in why_not(look_up("somebody/something"))
    assert why_not(look_up(SD15)) == ""


@pytest.mark.skipif("DORA_STUDIO_COMFYUI" not in os.environ, reason="DORA_STUDIO_COMFYUI names no folder of ComfyUI")
def test_the_table_of_required_inputs_is_comfyuis() -> None:
    root = Path(os.environ["DORA_STUDIO_COMFYUI"])
    declared = dict(_declared(root / "nodes.py"))
    if (advanced := root / "comfy_extras" / "nodes_model_advanced.py").exists():
        declared |= dict(_declared(advanced))
    for name in INPUTS.keys() & declared.keys():
        assert declared[name] == INPUTS[name], name


def _declared(file: Path) -> Iterator[tuple[str, set[str]]]:
    """Node classes with the names that INPUT_TYPES returns as required, read without running them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.Return) and isinstance(part.value, ast.Dict):
                    found: dict[Any, ast.expr] = {
                        key.value: value
                        for key, value in zip(part.value.keys, part.value.values, strict=True)
                        if isinstance(key, ast.Constant)
                    }
                    required = found.get("required")
                    if isinstance(required, ast.Dict):
                        yield node.name, {key.value for key in required.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
