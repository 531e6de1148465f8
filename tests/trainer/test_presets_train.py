"""Every shipped preset, trained for two steps on a small model of its family."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn
from transformers.models.clip.modeling_clip import CLIPAttention

from dora_core.families import neutral_name
from tests.trainer.conftest import tiny_pipeline, write_pictures
from trainer.checkpoints import ADAPTER, read_state
from trainer.components import load_components
from trainer.config import RunConfig
from trainer.config_io import load_config
from trainer.events import Exported, read_events
from trainer.presets import SHIPPED, list_presets
from trainer.run_dir import RunDir
from trainer.session import run_training

PRESETS = {preset.name: preset for preset in list_presets([SHIPPED]).presets}


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A tiny model of a family, wide enough for the presets' ranks."""

    @cache
    def folder(family: str) -> str:
        made = tmp_path_factory.mktemp("base") / family
        tiny_pipeline(family, widths=(20, 40)).save_pretrained(made)
        return str(made)

    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_the_layers_that_it_names_and_exports_them(
    name: str, tmp_path: Path, base_of: Callable[[str], str]
) -> None:
    """Two steps with its own settings, but for the base model, the sizes, and how long a sample is worked on."""
    folder = write_pictures(tmp_path / "pictures", [(32, 32), (32, 33), (40, 32)])
    sizes = ["data.resolution_px=32", "data.bucket_step_px=8", "data.smallest_side_px=8"]
    brief = ["train.steps=2", "sample.steps=1", "train.precision=fp32", "data.instance_prompt=a sks thing"]
    base = "starter" if name.startswith("starter") else base_of(PRESETS[name].head.family)
    config = load_config(name, [f"model.base={base}", f"data.folder={folder}", *sizes, *brief])
    run = RunDir.create(tmp_path / "runs", config)
    assert run_training(run) == "finished"
    state = read_state(run.checkpoints_dir / "step-000002" / ADAPTER)
    assert state.layers.keys() == layers_by_class(config)
    assert all(bool(layer.up.any()) for layer in state.factors.values())  # it starts at zero
    exported = [event for event in read_events(run.events_file)[0] if isinstance(event, Exported)]
    assert [(run.path / event.file).is_file() for event in exported] == [True]


def layers_by_class(config: RunConfig) -> set[str]:
    """What the preset targets, told by the classes of diffusers and transformers instead of by names."""
    components = load_components(config.model)
    blocks = {
        "attention": (Attention,),
        "attention-mlp": (Transformer2DModel,),
        "attention-mlp-conv": (Transformer2DModel, ResnetBlock2D, Downsample2D, Upsample2D),
    }[config.adapter.targets]
    names = adapted("unet", components.unet, blocks)
    if config.adapter.text_encoder:
        assert config.adapter.targets == "attention"
        for part, encoder in components.text_encoders.items():
            names |= adapted(part, encoder, (CLIPAttention,))
    return names


def adapted(part: str, model: nn.Module, blocks: tuple[type[nn.Module], ...]) -> set[str]:
    return {
        neutral_name(part, f"{path}.{inner}" if inner else path)
        for path, block in model.named_modules()
        if isinstance(block, blocks)
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
