"""What is written is what was meant, in the very layout that other programs read, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from dora_core.errors import FileFormatError
from dora_core.families import FAMILIES, ModelModules, shipped_modules
from dora_core.files import read_adapter, write_adapter
from dora_core.formats import fits_half
from dora_core.header import read_header
from dora_core.layouts import NAME_ENDINGS, Layout, inspect_adapter
from dora_core.metadata import About
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, LayerWeights
from tests.adapters import RANK, random_adapter, random_weights, small_modules
from tests.dora_core.dense import dense_weight, relative_error

every_family = pytest.mark.parametrize("family", FAMILIES)
LAYOUTS_AND_AXES: list[tuple[Layout, NormAxis | None]] = [
    ("kohya", None),
    ("kohya", "input"),
    ("kohya", "output"),
    ("peft", None),
    ("peft", "output"),
    ("kohya-compensated", "output"),
    ("diff", None),
    ("diff", "input"),
    ("diff", "output"),
]
every_layout = pytest.mark.parametrize(("layout", "axis"), LAYOUTS_AND_AXES)

LINEAR = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "unet.down_blocks.1.resnets.0.conv1"
POINTWISE = "unet.down_blocks.1.attentions.0.proj_in"
QUERY = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj"


SD1 = small_modules("sd1")


def made(
    axis: NormAxis | None, names: Iterable[str], modules: ModelModules = SD1
) -> tuple[AdapterState, dict[str, torch.Tensor]]:
    """An adapter on the named modules, and their base weights."""
    base = random_weights(modules, list(names))
    return random_adapter(base, axis), base


def path_of(folder: Path, layout: Layout) -> Path:
    return folder / f"red-panda{NAME_ENDINGS[layout]}"


@every_family
@every_layout
def test_every_layer_means_the_same_after_a_round_trip(
    tmp_path: Path, family: str, layout: Layout, axis: NormAxis | None
) -> None:
    modules = small_modules(family)
    (state, base), path = made(axis, modules.shapes, modules), path_of(tmp_path, layout)
    written = write_adapter(path, state, modules, layout, base=base, precision="full")
    found = weights_in(path, modules, base)
    assert found.keys() == state.layers.keys()
    assert not written.added
    for name, layer in state.factors.items():
        expected = dense_weight(base[name], layer, axis)
        assert relative_error(found[name], expected, expected - base[name]) < 1e-6, name


def weights_in(path: Path, modules: ModelModules, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """W' of every layer, by the rule of the file's own layout."""
    info = inspect_adapter(path)
    state = read_adapter(path, modules).state
    if info.layout == "diff":
        return {name: base[name].double() + layer.delta() for name, layer in state.layers.items()}
    if info.layout == "kohya-compensated":
        return {name: as_comfyui_divides(base[name].double(), layer) for name, layer in state.factors.items()}
    return {name: dense_weight(base[name], layer, state.norm_axis) for name, layer in state.factors.items()}


def as_comfyui_divides(weight: torch.Tensor, layer: LayerWeights) -> torch.Tensor:
    """m V / norm(W0): the norm of the base weight where DoRA has that of V."""
    assert layer.magnitude is not None
    norm = torch.linalg.vector_norm(weight, dim=list(range(1, weight.dim())), keepdim=True)
    return layer.magnitude * (weight + layer.delta()) / norm


@every_family
def test_the_released_models_layers_are_read_without_being_told_the_model(tmp_path: Path, family: str) -> None:
    modules = shipped_modules(family)
    layers = {name: rank_one_layer(shape) for name, shape in modules.shapes.items()}
    state = AdapterState(layers, "input")
    write_adapter(tmp_path / "a.safetensors", state, modules, precision="full")
    found = read_adapter(tmp_path / "a.safetensors")
    assert found.modules is modules
    assert found.info.layout == "kohya"
    assert found.info.ranks == (1,)
    assert found.state.norm_axis == "input"
    assert found.state.layers.keys() == state.layers.keys()
    for name, layer in state.factors.items():
        other = found.state.factors[name]
        assert torch.equal(layer.down, other.down)
        assert torch.equal(layer.up, other.up)
        assert layer.magnitude is not None
        assert other.magnitude is not None
        assert torch.equal(layer.magnitude, other.magnitude)


def rank_one_layer(shape: tuple[int, ...]) -> LayerWeights:
    out, inputs, *kernel = shape
    ones = [1] * len(kernel)
    return LayerWeights(torch.rand(1, inputs, *kernel), torch.rand(out, 1, *ones), 1.0, torch.rand(1, inputs, *ones))


# --- the kohya layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["input", "output"])
def test_a_kohya_file_has_four_keys_a_layer_with_full_dimensions(tmp_path: Path, axis: NormAxis) -> None:
    state, _ = made(axis, [LINEAR, CONV, POINTWISE])
    write_adapter(tmp_path / "a.safetensors", state, SD1)
    tensors = load_file(tmp_path / "a.safetensors")
    names = {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": SD1.shapes[LINEAR],
        "lora_unet_down_blocks_1_resnets_0_conv1": SD1.shapes[CONV],
        "lora_unet_down_blocks_1_attentions_0_proj_in": SD1.shapes[POINTWISE],
    }
    leaves = ("alpha", "dora_scale", "lora_down.weight", "lora_up.weight")
    assert set(tensors) == {f"{name}.{leaf}" for name in names for leaf in leaves}
    for name, (out, inner, *kernel) in names.items():
        ones = [1] * len(kernel)
        assert list(tensors[f"{name}.lora_down.weight"].shape) == [3, inner, *kernel]
        assert list(tensors[f"{name}.lora_up.weight"].shape) == [out, 3, *ones]
        scale = [1, inner, *ones] if axis == "input" else [out, 1, *ones]
        assert list(tensors[f"{name}.dora_scale"].shape) == scale
        assert tensors[f"{name}.dora_scale"].dtype == torch.float32
        assert tensors[f"{name}.lora_down.weight"].dtype == tensors[f"{name}.lora_up.weight"].dtype == torch.float16


@pytest.mark.parametrize(("layout", "axis"), [case for case in LAYOUTS_AND_AXES if case[0] != "diff"])
def test_alpha_is_folded_into_the_factors(tmp_path: Path, layout: Layout, axis: NormAxis | None) -> None:
    """A1111 before 1.10 scaled by alpha / rank after the decomposition, where only a ratio of 1 does no harm."""
    (state, base), path = made(axis, [LINEAR]), path_of(tmp_path, layout)
    assert state.factors[LINEAR].alpha == RANK / 2
    write_adapter(path, state, SD1, layout, base=base)
    alphas = [tensor.item() for key, tensor in load_file(path).items() if key.endswith(".alpha")]
    assert alphas == ([] if layout == "peft" else [RANK])
    layer = read_adapter(path, SD1).state.layers[LINEAR]
    assert relative_error(layer.delta(), state.layers[LINEAR].delta(), layer.delta()) < 1e-3


def test_half_precision_costs_less_than_a_thousandth_of_the_update(tmp_path: Path) -> None:
    state, _ = made("input", [LINEAR, CONV])
    written = write_adapter(tmp_path / "a.safetensors", state, SD1)
    assert written.full_precision == ()
    for name, layer in read_adapter(tmp_path / "a.safetensors", SD1).state.layers.items():
        assert relative_error(layer.delta(), state.layers[name].delta(), layer.delta()) < 6e-4


@pytest.mark.parametrize(
    ("up_factor", "reason"),
    [(1e8, "above 65504"), (1e-4, "below 6e-5 float16 has fewer digits"), (1e-8, "becomes zero")],
)
def test_factors_that_float16_would_spoil_stay_in_float32(tmp_path: Path, up_factor: float, reason: str) -> None:
    state, _ = made("input", [LINEAR, CONV])
    spoilt = replace(state.factors[CONV], up=state.factors[CONV].up * up_factor)
    state = AdapterState({**state.layers, CONV: spoilt}, "input")
    written = write_adapter(tmp_path / "a.safetensors", state, SD1)
    assert written.full_precision == ("lora_unet_down_blocks_1_resnets_0_conv1.lora_up.weight",), reason
    found = read_adapter(tmp_path / "a.safetensors", SD1).state.layers[CONV]
    assert relative_error(found.delta(), spoilt.delta(), spoilt.delta()) < 6e-4


def test_a_few_values_below_float16s_normal_range_do_not_cost_a_file_its_size() -> None:
    tensor = torch.linspace(-1, 1, 1001)
    tensor[::10] = 1e-8
    assert fits_half(tensor)
    assert fits_half(torch.zeros(3, 5))
    assert not fits_half(torch.full((3, 5), 1e-6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_factors_of_any_type_are_written(tmp_path: Path, dtype: torch.dtype) -> None:
    layer = made(None, [LINEAR])[0].factors[LINEAR]
    layer = replace(layer, down=layer.down.to(dtype), up=layer.up.to(dtype))
    write_adapter(tmp_path / "a.safetensors", AdapterState({LINEAR: layer}), SD1, precision="full")
    found = read_adapter(tmp_path / "a.safetensors", SD1).state.layers[LINEAR]
    assert relative_error(found.delta(), layer.delta(), layer.delta()) < 1e-6


# --- the peft layout --------------------------------------------------------------------------------------------------


def test_a_peft_file_has_pefts_keys_and_magnitude_shapes(tmp_path: Path) -> None:
    names = [LINEAR, CONV, *projections(QUERY)]
    write_adapter(path_of(tmp_path, "peft"), made("output", names)[0], SD1, "peft")
    tensors = load_file(path_of(tmp_path, "peft"))
    leaves = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector.weight")
    assert set(tensors) == {f"{name}.{leaf}" for name in names for leaf in leaves}
    assert list(tensors[f"{LINEAR}.lora_magnitude_vector.weight"].shape) == [SD1.shapes[LINEAR][0]]
    assert list(tensors[f"{CONV}.lora_magnitude_vector.weight"].shape) == [1, SD1.shapes[CONV][0], 1, 1]


@pytest.mark.parametrize(
    ("layout", "axis", "reason"),
    [
        ("peft", "input", "output axis only"),
        ("kohya-compensated", "input", "only DoRA on the output axis needs compensation"),
        ("kohya-compensated", None, "only DoRA on the output axis needs compensation"),
    ],
)
def test_a_layout_that_cannot_say_it_is_refused(
    tmp_path: Path, layout: Layout, axis: NormAxis | None, reason: str
) -> None:
    state, base = made(axis, [LINEAR])
    with pytest.raises(FileFormatError, match=reason):
        write_adapter(path_of(tmp_path, layout), state, SD1, layout, base=base)
    assert not list(tmp_path.iterdir())


# --- the compensated file ---------------------------------------------------------------------------------------------


def test_a_compensated_file_says_what_it_is_in_its_name_and_metadata(tmp_path: Path) -> None:
    state, base = made("output", [LINEAR])
    with pytest.raises(FileFormatError, match=r"end its name with '-comfyui-compensated\.safetensors'"):
        write_adapter(tmp_path / "plain.safetensors", state, SD1, "kohya-compensated", base=base)
    path = path_of(tmp_path, "kohya-compensated")
    write_adapter(path, state, SD1, "kohya-compensated", base=base)
    metadata = read_header(path).metadata
    assert metadata["dora_studio.layout"] == "kohya-compensated"
    assert metadata["dora_studio.renders_in"].startswith("only ComfyUI")


def test_a_row_without_direction_is_compensated_to_zero(tmp_path: Path) -> None:
    """Where W0 + delta has a row of zeros, W' has it too, and nothing is divided by zero."""
    state, base = made("output", [LINEAR])
    base[LINEAR][0] = 0
    state.factors[LINEAR].up[0] = 0
    path = path_of(tmp_path, "kohya-compensated")
    write_adapter(path, state, SD1, "kohya-compensated", base=base)
    magnitude = read_adapter(path, SD1).state.layers[LINEAR].magnitude
    assert magnitude is not None
    assert magnitude.isfinite().all()
    assert magnitude[0] == 0


# --- text encoders ----------------------------------------------------------------------------------------------------


def projections(name: str) -> list[str]:
    block = name.rpartition(".")[0]
    return [f"{block}.{projection}" for projection in ("q_proj", "k_proj", "v_proj", "out_proj")]


@pytest.mark.parametrize(("layout", "axis"), [case for case in LAYOUTS_AND_AXES if case[0] != "kohya-compensated"])
def test_a_text_encoders_projections_come_together_and_those_added_do_nothing(
    tmp_path: Path, layout: Layout, axis: NormAxis | None
) -> None:
    modules = small_modules("sdxl")
    query = QUERY.replace("text_encoder.", "text_encoder_2.")
    base = random_weights(modules, [LINEAR, *projections(query)])
    state = random_adapter({name: base[name] for name in (query, LINEAR)}, axis)
    path = path_of(tmp_path, layout)
    written = write_adapter(path, state, modules, layout, base=base)
    added = set(projections(query)) - {query}
    assert set(written.added) == added
    found = weights_in(path, modules, base)
    assert found.keys() == added | {query, LINEAR}
    for name in added:
        assert relative_error(found[name], base[name], base[name]) < 1e-7


def test_added_projections_do_not_depend_on_the_order_of_the_others(tmp_path: Path) -> None:
    """They take their rank from one that is there, which has to be the same one whatever comes first."""
    query, key = projections(QUERY)[:2]
    layers = made(None, [query, key])[0].factors
    smaller = LayerWeights(layers[key].down[:2], layers[key].up[:, :2], layers[key].alpha)
    write_adapter(tmp_path / "a.safetensors", AdapterState({query: layers[query], key: smaller}), SD1)
    first = (tmp_path / "a.safetensors").read_bytes()
    write_adapter(tmp_path / "a.safetensors", AdapterState({key: smaller, query: layers[query]}), SD1)
    assert (tmp_path / "a.safetensors").read_bytes() == first


def test_added_projections_of_dora_need_the_base_weights(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="needs base weights") as error:
        write_adapter(tmp_path / "a.safetensors", made("input", [QUERY])[0], SD1)
    assert set(error.value.missing) == set(projections(QUERY)) - {QUERY}
    assert not list(tmp_path.iterdir())
    write_adapter(tmp_path / "a.safetensors", made(None, [QUERY])[0], SD1)  # LoRA needs none


def test_a_full_difference_needs_every_base_weight(tmp_path: Path) -> None:
    state, base = made(None, [LINEAR, CONV])
    with pytest.raises(FileFormatError) as error:
        write_adapter(path_of(tmp_path, "diff"), state, SD1, "diff", base={LINEAR: base[LINEAR]})
    assert error.value.missing == (CONV,)


# --- checks before anything is written --------------------------------------------------------------------------------


def test_layers_that_the_model_lacks_or_has_in_another_size_are_listed(tmp_path: Path) -> None:
    layers = dict(made(None, [LINEAR, CONV])[0].layers)
    layers["unet.nowhere"] = layers[LINEAR]
    layers[CONV] = layers[LINEAR]
    with pytest.raises(FileFormatError) as error:
        write_adapter(tmp_path / "a.safetensors", AdapterState(layers), SD1)
    assert error.value.unexpected == ("unet.nowhere",)
    assert [entry.partition(":")[0] for entry in error.value.wrong_shape] == [CONV]
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_no_layers_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="the adapter has no layers"):
        write_adapter(tmp_path / "a.safetensors", AdapterState({}), SD1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["down", "up", "magnitude"])
def test_values_that_are_not_finite_are_never_written(tmp_path: Path, part: str) -> None:
    state, _ = made("input", [LINEAR, CONV])
    getattr(state.layers[CONV], part).view(-1)[1] = torch.nan
    with pytest.raises(FileFormatError, match=f"not finite, first {CONV}"):
        write_adapter(tmp_path / "a.safetensors", state, SD1)


# --- bytes ------------------------------------------------------------------------------------------------------------


@every_layout
def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path, layout: Layout, axis: NormAxis | None) -> None:
    state, base = made(axis, [LINEAR, CONV, POINTWISE, *projections(QUERY)])
    turned = AdapterState(dict(reversed(list(state.layers.items()))), axis)
    path = path_of(tmp_path, layout)
    first = write_adapter(path, state, SD1, layout, About(provenance={"b": "2", "a": "1"}), base)
    bytes_of_first = path.read_bytes()
    second = write_adapter(path, turned, SD1, layout, About(provenance={"a": "1", "b": "2"}), base)
    assert path.read_bytes() == bytes_of_first
    assert first == second
    assert first.file.size_bytes == len(bytes_of_first)


def test_the_file_hash_is_that_of_the_file(tmp_path: Path) -> None:
    written = write_adapter(tmp_path / "a.safetensors", made(None, [LINEAR])[0], SD1)
    assert hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest() == written.file.sha256


@pytest.mark.parametrize("axis", [None, "input"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])  # a file smaller and one larger than the old hash's megabyte
def test_kohyas_hashes_are_those_of_safetensors_own_bytes(tmp_path: Path, family: str, axis: NormAxis | None) -> None:
    """As sd-scripts computes them: save with the ss_ entries alone, hash the data, and 64 KiB at 1 MiB of the file."""
    modules = small_modules(family)
    write_adapter(tmp_path / "a.safetensors", made(axis, modules.shapes, modules)[0], modules, precision="full")
    metadata = read_header(tmp_path / "a.safetensors").metadata
    stable = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    content = save(load_file(tmp_path / "a.safetensors"), stable)
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert (len(content) > 2**20) == (family == "sdxl")
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(content[2**20 : 2**20 + 2**16]).hexdigest()[:8]


def test_header_entries_are_sorted_and_tensors_aligned(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.safetensors", made("input", [LINEAR, CONV])[0], SD1)
    content = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert list(metadata) == sorted(metadata)
    assert length % 8 == 0
    sizes = {"F32": 4, "F16": 2}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


# --- whole or not at all ----------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from dora_core.files import write_adapter
from tests.adapters import random_adapter, random_weights, small_modules

modules = small_modules("sd1")
state = random_adapter(random_weights(modules, list(modules.shapes)), "input")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_adapter(sys.argv[1], state, modules)
except OSError as error:
    print(type(error).__name__)
"""


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """The process may write 20 kB a file, which ends the write as a full disk would: with an OSError in its middle."""
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"what was there before")
    command = [sys.executable, "-c", FULL_DISK, str(target)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert output.stdout.strip() == "OSError"
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert target.read_bytes() == b"what was there before"


def test_a_target_that_cannot_be_replaced_leaves_no_temporary_file(tmp_path: Path) -> None:
    state, _ = made(None, [LINEAR])
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_adapter(tmp_path / "a.safetensors", state, SD1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(FileNotFoundError):
        write_adapter(tmp_path / "nowhere" / "a.safetensors", state, SD1)
