"""The handle of an injected adapter: its parameters, its strength, its state."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from dora_core.errors import FileFormatError
from dora_core.layers import AdaptedLayer, DoraLayer, LoraLayer
from dora_core.norms import refresh_norms
from dora_core.spec import AdapterSpec, NormAxis
from dora_core.state import AdapterState


class Adapter:
    """All adapted layers of a model, by module path in the base model.

    Call `attach(optimizer)` once, so that the norms follow whatever the optimizer does. Without it every DoRA layer
    notices changes that PyTorch counts by itself, which on a GPU is a wait per layer and step.
    """

    def __init__(self, layers: Mapping[str, AdaptedLayer], spec: AdapterSpec) -> None:
        self.layers = dict(layers)
        self.spec = spec

    @property
    def low_rank(self) -> dict[str, LoraLayer]:
        """The layers of LoRA and DoRA; {} of a full fine-tune."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, LoraLayer)}

    def parameters(self) -> Iterator[nn.Parameter]:
        for layer in self.layers.values():
            yield from layer.own_parameters().values()

    def parameter_groups(
        self,
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        up_factor: float = 1.0,
        magnitude_factor: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Groups for a torch optimizer: "down", "up" and, for DoRA, "magnitude"; of a full fine-tune "difference".

        `up_factor` is LoRA+'s ratio (arXiv 2402.12354); the magnitude never decays, as zero is not where it rests.
        """
        rates = {
            "down": (learning_rate, weight_decay),
            "up": (learning_rate * up_factor, weight_decay),
            "magnitude": (learning_rate * magnitude_factor, 0.0),
            "difference": (learning_rate, weight_decay),
        }
        groups: list[dict[str, Any]] = []
        for part, (rate, decay) in rates.items():
            if parameters := self._parameters_of(part):
                groups.append({"name": part, "params": parameters, "lr": rate, "weight_decay": decay})
        return groups

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Have the norms follow each `optimizer.step()`, whichever way it writes; `remove()` the handle to stop."""
        return optimizer.register_step_post_hook(self._refresh_after_step)

    def refresh_norms(self) -> None:
        """Bring the norms of all layers up to date, with one look at the device for all of them together."""
        if layers := self._dora_layers():
            refresh_norms(layers)

    def compile(self) -> None:
        """From now on run the passes over activations through torch.compile; what it compiles serves all layers.

        Worth it in half precision, where each eager pass is about ten. A program that compiles the blocks of its model
        needs no call of this, but one of `attach`: compiled blocks do not look for changes.
        """
        for layer in self.layers.values():
            layer.is_compiled = True

    @property
    def strength(self) -> float:
        """t in W0 + t (W' - W0), of all layers: 0 is exactly the base."""
        return next(iter(self.layers.values())).strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._check_unmerged()
        for layer in self.layers.values():
            layer.strength = strength

    @contextmanager
    def disabled(self) -> Generator[None]:
        """Inside, the model is exactly the base model."""
        self._check_unmerged()
        before = {name: layer.is_enabled for name, layer in self.layers.items()}
        try:
            for layer in self.layers.values():
                layer.is_enabled = False
            yield
        finally:
            for name, layer in self.layers.items():
                layer.is_enabled = before[name]

    def merged_weight(self, name: str) -> Tensor:
        """The dense weight that the layer of this name stands for at the present strength, in float32 at least."""
        return self.layers[name].merged_weight()

    def merge_into_base(self) -> None:
        """Let the base weights hold the adapter, computed in float32 and rounded once to their dtype."""
        self._check_unmerged()
        for layer in self.layers.values():
            layer.merge()

    def unmerge(self) -> None:
        """Give the base its own weights back, bit for bit."""
        for layer in self.layers.values():
            layer.unmerge()

    def state(self) -> AdapterState:
        """Everything learned, as copies on the CPU."""
        weights = {name: layer.weights() for name, layer in self.layers.items()}
        return AdapterState(weights, self._norm_axis)

    def load(self, state: AdapterState) -> None:
        """Take over factors, scales and magnitudes. FileFormatError, with three lists, where they do not fit: nothing
        has changed then."""
        self._check_fits(state)
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.load(state.layers[name])
        self.refresh_norms()

    def _refresh_after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        self.refresh_norms()

    def _dora_layers(self) -> list[DoraLayer]:
        return [layer for layer in self.layers.values() if isinstance(layer, DoraLayer)]

    def _parameters_of(self, part: str) -> list[nn.Parameter]:
        owned = [layer.own_parameters() for layer in self.layers.values()]
        return [parameters[part] for parameters in owned if part in parameters]

    @property
    def _norm_axis(self) -> NormAxis | None:
        return self.spec.norm_axis if self.spec.kind == "dora" else None

    def _check_fits(self, state: AdapterState) -> None:
        ours, theirs = self.layers.keys(), state.layers.keys()
        wrong = [name for name in ours & theirs if not self.layers[name].fits(state.layers[name])]
        if ours != theirs or wrong:
            raise FileFormatError("the state does not fit the adapter", ours - theirs, theirs - ours, wrong)
        if state.norm_axis != self._norm_axis:
            raise FileFormatError(f"the state's norm axis is {state.norm_axis}, the adapter's is {self._norm_axis}")

    def _check_unmerged(self) -> None:
        if any(layer.unmerged is not None for layer in self.layers.values()):
            raise RuntimeError("the adapter is merged into the base weights: call unmerge() first.")
