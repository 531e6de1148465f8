"""Layers of all kinds with unequal sizes, and the dense closed form that they must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dora_core import Adapter, AdapterSpec, DoraLayer, LoraLayer, inject
from dora_core.spec import NormAxis, NormGradient

LINEAR_SHAPE, IMAGE_SHAPE = (2, 11, 24), (2, 24, 9, 7)

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 40), LINEAR_SHAPE),
    "linear without bias": (lambda: nn.Linear(24, 40, bias=False), (13, 24)),
    "conv 1x1": (lambda: nn.Conv2d(24, 40, 1), IMAGE_SHAPE),
    "conv 3x3": (lambda: nn.Conv2d(24, 40, 3, padding=1), IMAGE_SHAPE),
    "conv 3x3 stride 2": (lambda: nn.Conv2d(24, 40, 3, stride=2, padding=1, bias=False), IMAGE_SHAPE),
}
PADDED = {
    "uneven kernel": (lambda: nn.Conv2d(24, 40, (3, 5), stride=(2, 1), padding=(0, 2)), IMAGE_SHAPE),
    "dilated": (lambda: nn.Conv2d(24, 40, 3, padding=(2, 1), dilation=(2, 1)), IMAGE_SHAPE),
    "same": (lambda: nn.Conv2d(24, 40, 3, padding="same"), IMAGE_SHAPE),
    "same, even kernel": (lambda: nn.Conv2d(24, 40, (2, 4), padding="same"), IMAGE_SHAPE),
    "valid": (lambda: nn.Conv2d(24, 40, 3, padding="valid"), IMAGE_SHAPE),
    "reflect": (lambda: nn.Conv2d(24, 40, 3, padding=(1, 2), padding_mode="reflect"), IMAGE_SHAPE),
    "circular": (lambda: nn.Conv2d(24, 40, 3, padding=(2, 1), padding_mode="circular"), IMAGE_SHAPE),
    "replicate, same": (lambda: nn.Conv2d(24, 40, (3, 2), padding="same", padding_mode="replicate"), IMAGE_SHAPE),
}


def one_layer(module: nn.Module, spec: AdapterSpec, *, moved: bool = True) -> tuple[nn.Sequential, Adapter, LoraLayer]:
    """The module alone in a model, adapted; `moved`: away from the start, with gains between about 0.4 and 1.6."""
    model = nn.Sequential(module)
    adapter = inject(model, spec)
    layer = adapter.low_rank["0"]
    if moved:
        move(layer)
    return model, adapter, layer


def move(layer: LoraLayer, gain_spread: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.up.copy_(0.3 * torch.randn(layer.up.shape, generator=generator))
        if isinstance(layer, DoraLayer):
            layer.magnitude.mul_(1 + gain_spread * torch.randn(layer.magnitude.shape, generator=generator))


def dense_weight(layer: LoraLayer, axis: NormAxis | None, gradient: NormGradient, strength: float = 1.0) -> Tensor:
    """W0 + strength (W' - W0) by the definition, in float64 and open to autograd."""
    base = layer.base.weight.detach().double()
    delta = layer.scale * torch.einsum("or,r...->o...", layer.up.double().flatten(1), layer.down.double())
    weight = base + delta
    if isinstance(layer, DoraLayer):
        others = [dimension for dimension in range(weight.dim()) if dimension != (0 if axis == "output" else 1)]
        norm = weight.square().sum(others, keepdim=True).sqrt()
        weight = layer.magnitude.double() * weight / (norm.detach() if gradient == "detached" else norm)
    return base + strength * (weight - base)


def dense_output(layer: LoraLayer, weight: Tensor, x: Tensor) -> Tensor:
    bias = None if layer.base.bias is None else layer.base.bias.detach().double()
    replaced = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return torch.func.functional_call(layer.base, replaced, (x.double(),))


def gradients(y: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Of a fixed random projection of y."""
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return list(torch.autograd.grad(y, inputs, dy.to(y.dtype), retain_graph=True))


def error(value: Tensor, reference: Tensor) -> float:
    difference = value.detach().double() - reference.detach().double()
    return (difference.norm() / reference.detach().double().norm()).item()


def training_losses(model: nn.Module, parameters: list[nn.Parameter], x: Tensor, target: Tensor) -> list[float]:
    """Of 50 steps of AdamW on a mean squared error."""
    optimizer = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(50):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
