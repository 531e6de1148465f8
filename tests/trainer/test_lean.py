"""Settings that save memory or time: the same training, but for rounding or for the bits of the base."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dora_core.header import read_header
from tests.trainer.test_loop import built
from trainer.build import build_training
from trainer.components import load_components
from trainer.compute import choose_compute
from trainer.config import RunConfig
from trainer.config_errors import ConfigError
from trainer.events import Exported, Warned, read_events
from trainer.failures import ExplainedError
from trainer.home import Home
from trainer.lean import Aside, compile_blocks
from trainer.loop import accumulate_gradients, take_step
from trainer.optim import named_parameters
from trainer.quantised import Int8Rows, quantise
from trainer.run_dir import RunDir
from trainer.session import run_training
from trainer.training import Training

Settings = Callable[..., RunConfig]
CONV = {"adapter__targets": "attention-mlp-conv"}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_checkpointing_of_transformers_alone_changes_no_number(
    tmp_path: Path, tiny_settings: Settings, family: str
) -> None:
    """To the bit, as that of all blocks: recomputation repeats the same operations."""
    plain, *savers = (
        trained(tmp_path, tiny_settings(family, **CONV, adapter__dropout=0.1, **changes))
        for changes in (
            {},
            {"train__checkpointing": True},
            {"train__checkpointing": True, "train__checkpointed": "transformers"},
        )
    )
    for saver in savers:
        assert all(torch.equal(saver[name], value) for name, value in plain.items())


def test_which_blocks_are_checkpointed(tmp_path: Path, tiny_settings: Settings) -> None:
    settings = {"train__checkpointing": True, "train__checkpointed": "transformers"}
    components, _ = built(tmp_path, tiny_settings(**settings))
    flags = {
        type(module).__name__: module.gradient_checkpointing
        for module in components.unet.modules()
        if hasattr(module, "gradient_checkpointing") and module is not components.unet
    }
    assert flags.pop("Transformer2DModel") is True
    assert len(flags) == 5  # blocks with and without attention, down and up, and the middle
    assert not any(flags.values())


def test_channels_last_lays_out_every_convolution_and_changes_rounding_only(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    _, plain = built(tmp_path, tiny_settings(**CONV, train__accumulation=3))
    components, training = built(tmp_path, tiny_settings(**CONV, train__accumulation=3, train__channels_last=True))
    kernels = [m.weight for m in components.unet.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(kernels) > 10
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    check_same_gradients(training, plain)


def test_int8_rows_are_the_nearest_multiples_of_the_largest_by_127() -> None:
    weight = torch.tensor([[2.54, -0.01, 1.0], [0.0, 0.0, 0.0], [-12.7, 0.149, 3.0]])
    packed, scale = Int8Rows(torch.float32).right_inverse(weight)
    assert packed.tolist() == [[127, 0, 50], [0, 0, 0], [-127, 1, 30]]
    torch.testing.assert_close(scale, torch.tensor([[0.02], [1.0], [0.1]]))
    kernel = torch.randn(4, 3, 3, 3)
    packing = Int8Rows(torch.bfloat16)
    restored = packing(*packing.right_inverse(kernel))
    assert restored.dtype == torch.bfloat16
    furthest = kernel.abs().flatten(1).amax(1)
    assert ((restored.float() - kernel).abs().flatten(1).amax(1) <= furthest * (0.5 / 127 + 2**-8)).all()


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_training_on_a_quantised_base_is_training_on_the_dense_model_that_it_stands_for(
    tmp_path: Path, tiny_settings: Settings, bits: str
) -> None:
    if bits == "nf4":
        pytest.importorskip("bitsandbytes")
    config = tiny_settings(**CONV, model__bits=bits, train__checkpointing=True)
    dense, packed = load_components(config.model), load_components(config.model)
    before = size_bytes(packed.unet)
    quantise(packed.unet, config.model.bits)
    assert size_bytes(packed.unet) < before * {"int8": 0.5, "nf4": 0.4}[bits]  # of float32, small as these layers are
    changed = 0
    with torch.no_grad():
        for name, module in packed.unet.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and is_parametrized(module, "weight"):
                weight = dense.unet.get_parameter(f"{name}.weight")
                changed += not torch.equal(weight, module.weight)
                weight.copy_(module.weight)
    assert changed > 50
    dense.pipeline.save_pretrained(tmp_path / "dense")
    on_packed = trained(tmp_path, config)
    on_dense = trained(tmp_path, tiny_settings(**CONV, model__base=str(tmp_path / "dense"), train__checkpointing=True))
    assert all(torch.equal(on_packed[name], value) for name, value in on_dense.items())


def test_a_run_on_a_quantised_base_is_exported_for_the_true_one_and_says_so(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    config = tiny_settings(model__bits="int8", train__checkpointing=True, train__steps=2)
    run = RunDir.create(tmp_path / "runs", config)
    assert run_training(run) == "finished"
    events = read_events(run.events_file)[0]
    (warned,) = [event.text for event in events if isinstance(event, Warned)]
    assert "model.bits is int8" in warned
    (exported,) = [event for event in events if isinstance(event, Exported)]
    assert exported.headline.startswith("ComfyUI renders")
    assert read_header(run.path / exported.file).metadata["dora_studio.bits"] == "int8"


def test_nf4_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn.parametrize", None)
    with pytest.raises(ExplainedError, match=r"model\.bits is nf4, and bitsandbytes.*pip install"):
        quantise(nn.Linear(2, 2), "nf4")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model__bits": "int8"}, r"model\.bits is int8, but train\.checkpointing is false"),
        ({"train__checkpointed": "transformers"}, r"train\.checkpointed is transformers, but train\.checkpointing is"),
    ],
)
def test_what_needs_recomputation_is_refused_without(
    tiny_settings: Settings, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        tiny_settings(**changes)


class Noting(nn.Linear):
    """Where it went; a card has no room for one that does not fit."""

    def __init__(self, fits: bool = True) -> None:
        super().__init__(2, 3)
        self.fits = fits
        self.went: list[str] = []

    def to(self, device: Any) -> Noting:  # pyright: ignore[reportIncompatibleMethodOverride]
        if str(device) == "cuda" and not self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.went.append(str(device))
        return self


def test_parts_put_aside_come_back_for_the_drawing_alone() -> None:
    part = Noting()
    aside = Aside((part,), torch.device("cuda"))
    aside.put()

    def fail_to_draw() -> None:
        with aside.brought_back():
            assert part.went == ["cpu", "cuda"]
            raise ValueError("drawing fails")

    with pytest.raises(ValueError, match="drawing fails"):
        fail_to_draw()
    assert part.went == ["cpu", "cuda", "cpu"]


def test_of_parts_that_do_not_all_fit_none_stays_on_the_card() -> None:
    parts = Noting(), Noting(fits=False)
    with pytest.raises(torch.OutOfMemoryError), Aside(parts, torch.device("cuda")).brought_back():
        pytest.fail("it has no room to draw")
    assert [part.went[-1] for part in parts] == ["cpu", "cpu"]


def test_text_encoders_are_put_aside_where_no_step_needs_them(tmp_path: Path, tiny_settings: Settings) -> None:
    def aside(**changes: Any) -> set[str]:
        components, training = built(tmp_path, tiny_settings("sdxl", **changes))
        parts = {"vae": components.vae, **components.text_encoders}
        return {name for name, part in parts.items() if any(part is one for one in training.aside.parts)}

    assert aside() == {"vae", "text_encoder", "text_encoder_2"}
    assert aside(adapter__text_encoder=True) == {"vae"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiled_blocks_train_as_eager_ones_at_several_picture_sizes(tmp_path: Path, tiny_settings: Settings) -> None:
    settings = {"adapter__norm_axis": "output", "train__accumulation": 5, "data__resolution_px": 64}
    _, plain = built(tmp_path, tiny_settings(**settings))
    components, training = built(tmp_path, tiny_settings(**settings))
    assert len({training.datasets[0].batch(number).latents.shape for number in range(5)}) > 1
    assert compile_blocks(components.unet, torch.device("cpu")) == ""
    check_same_gradients(training, plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1


def test_without_a_compiler_a_run_trains_on_and_says_so(
    tmp_path: Path, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("torch._inductor.config").cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__compile=True, train__steps=2))
    assert run_training(run) == "finished"
    (warned,) = [event.text for event in read_events(run.events_file)[0] if isinstance(event, Warned)]
    assert warned.startswith("train.compile is true, but nothing can be compiled here")


@pytest.mark.gpu
def test_parts_put_aside_leave_the_card_and_samples_are_drawn_all_the_same(
    tmp_path: Path, tiny_settings: Settings
) -> None:
    run = RunDir.create(tmp_path / "runs", tiny_settings(train__steps=2))
    compute = choose_compute("auto")
    components = load_components(tiny_settings().model, dtype=compute.dtype, device=compute.device)
    training = build_training(
        tiny_settings(), components, compute, Home(tmp_path / "home"), lambda name, done, total: None
    )
    assert {next(part.parameters()).device.type for part in training.aside.parts} == {"cpu"}
    assert next(components.unet.parameters()).device.type == "cuda"
    assert run_training(run) == "finished"
    assert len(list(run.samples_dir.glob("*/00.png"))) == 2


def trained(tmp_path: Path, config: RunConfig) -> dict[str, Tensor]:
    return after_steps(built(tmp_path, config)[1])


def after_steps(training: Training) -> dict[str, Tensor]:
    for step in range(1, 4):
        assert take_step(training, step).reason == ""
    return {name: parameter.detach().clone() for name, parameter in named_parameters(training.adapters).items()}


def check_same_gradients(ours: Training, theirs: Training) -> None:
    """Of a step's loss, in all factors and magnitudes, away from the start, where `down` has none."""
    losses = []
    for training in (ours, theirs):
        random = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for adapter in training.adapters.values():
                for layer in adapter.layers.values():
                    layer.own_parameters()["up"].normal_(std=0.1, generator=random)
                adapter.refresh_norms()
        losses.append(accumulate_gradients(training, 1)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    others = named_parameters(theirs.adapters)
    for name, parameter in named_parameters(ours.adapters).items():
        assert parameter.grad is not None
        other = others[name].grad
        assert other is not None
        assert (parameter.grad - other).norm() <= 1e-4 * other.norm(), name


def size_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
