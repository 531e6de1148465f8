"""Other programs' own loaders make of our files the weights that we mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from lycoris.kohya import LycorisNetworkKohya
from safetensors.torch import load_file
from torch import Tensor, nn

from dora_core.files import write_adapter
from dora_core.header import read_header
from dora_core.layouts import NAME_ENDINGS, Layout
from dora_core.spec import NormAxis
from dora_core.state import AdapterState
from tests.adapters import RANK, random_adapter
from tests.dora_core.dense import dense_weight, relative_error
from tests.dora_core.tiny import Tiny, pipeline, tiny_sd1, tiny_sdxl

TINY: Mapping[str, Callable[[], Tiny]] = {"sd1": tiny_sd1, "sdxl": tiny_sdxl}


def written(
    folder: Path, tiny: Tiny, axis: NormAxis | None, layout: Layout
) -> tuple[Path, AdapterState, dict[str, Tensor]]:
    """A file with an adapter on every module, and the base weights."""
    base = {name: weight for name, weight in tiny.weights().items() if name in tiny.modules.shapes}
    state = random_adapter(base, axis, size=0.5, drift=0.2)
    path = folder / f"adapter{NAME_ENDINGS[layout]}"
    write_adapter(path, state, tiny.modules, layout, base=base, precision="full")
    return path, state, base


def assert_same_weights(found: Mapping[str, Tensor], state: AdapterState, base: Mapping[str, Tensor]) -> None:
    for name, layer in state.factors.items():
        expected = dense_weight(base[name], layer, state.norm_axis)
        assert relative_error(found[name], expected, expected - base[name]) < 1e-5, name


@pytest.mark.filterwarnings("ignore")  # of diffusers, peft and transformers about themselves
@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(("layout", "axis"), [("kohya", None), ("peft", None), ("peft", "output")])
def test_diffusers_fuses_our_file_into_the_weights_we_mean(
    tmp_path: Path, family: str, layout: Layout, axis: NormAxis | None
) -> None:
    tiny = TINY[family]()
    path, state, base = written(tmp_path, tiny, axis, layout)
    pipe = pipeline(tiny)
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert_same_weights(tiny.weights(), state, base)


@pytest.mark.parametrize("axis", [None, "input", "output"])
def test_lycoris_loads_our_file_into_a_network_built_with_the_axis_it_states(
    tmp_path: Path, axis: NormAxis | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_sd1()
    path, state, base = written(tmp_path, tiny, axis, "kohya")
    network = lycoris_network(tiny, read_header(path).metadata, monkeypatch)
    missing, unexpected = network.load_state_dict(load_file(path), strict=False)
    assert not missing
    assert not unexpected
    for lora in network.unet_loras + network.text_encoder_loras:
        lora.merge_to(1.0)
    assert_same_weights(tiny.weights(), state, base)


class Nested(nn.Module):
    """A text encoder as transformers nested it before 5.6, which is what LyCORIS' names in the wild come from."""

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model


def lycoris_network(tiny: Tiny, metadata: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> LycorisNetworkKohya:
    """Built from what the file's metadata say. The default preset fails on diffusers' UNets: it names a layer twice."""
    modules = [*LycorisNetworkKohya.UNET_TARGET_REPLACE_MODULE]
    modules.remove("TimestepEmbedding")
    monkeypatch.setattr(LycorisNetworkKohya, "UNET_TARGET_REPLACE_MODULE", modules)
    arguments = json.loads(metadata["ss_network_args"])
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == arguments["conv_dim"] == str(RANK)
    models = (Nested(tiny.components["text_encoder"]), tiny.components["unet"])
    network = LycorisNetworkKohya(
        *models,
        lora_dim=int(metadata["ss_network_dim"]),
        alpha=int(metadata["ss_network_alpha"]),
        conv_lora_dim=int(arguments["conv_dim"]),
        conv_alpha=int(arguments["conv_alpha"]),
        weight_decompose=arguments.get("dora_wd") == "True",
        wd_on_out=arguments.get("wd_on_output") == "True",
        warn_on_unmatched=False,
    )
    network.apply_to(*models, apply_text_encoder=True, apply_unet=True)
    return network
