"""Forward and backward of one layer, in every variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dora_core.spec import AdapterSpec
from trainer.bench.timing import Call
from trainer.bench.variants import VARIANTS, Adapted, autocast, random_states


@dataclass(frozen=True)
class Case:
    """One layer and the shape of what goes into it."""

    title: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]


CPU_CASES = (
    Case("Linear 640->640, 1024 tokens", partial(nn.Linear, 640, 640), (1, 1024, 640)),
    Case("Linear 1280->5120, 1024 tokens", partial(nn.Linear, 1280, 5120), (1, 1024, 1280)),
    Case("Conv 3x3 320->320, 32x32", partial(nn.Conv2d, 320, 320, 3, padding=1), (1, 320, 32, 32)),
)
GPU_CASES = (
    Case("Linear 640->640, 4096 tokens", partial(nn.Linear, 640, 640), (1, 4096, 640)),
    Case("Linear 1280->1280, 4096 tokens", partial(nn.Linear, 1280, 1280), (4, 1024, 1280)),
    Case("Linear 1280->10240, 1024 tokens", partial(nn.Linear, 1280, 10240), (1, 1024, 1280)),
    Case("Conv 3x3 320->320, 128x128", partial(nn.Conv2d, 320, 320, 3, padding=1), (1, 320, 128, 128)),
)
QUICK_CASES = (
    Case("Linear 24->40, 66 tokens", partial(nn.Linear, 24, 40), (2, 33, 24)),
    Case("Conv 3x3 6->14, 7x9", partial(nn.Conv2d, 6, 14, 3, padding=1), (2, 6, 7, 9)),
)


def layer_calls(
    case: Case, device: torch.device, dtype: torch.dtype, rank: int, *, with_compiled: bool
) -> dict[str, Call]:
    """By the variant's name one forward and backward, with the same input and the same gradient of the output.

    In bfloat16 the layer and its input are that, what is learned is float32, and autocast is on, as in training. Norms
    are there already, as they are for recomputation and for all micro-batches but one, unless the name ends with "fresh
    norm": that call computes them too.
    """
    torch.compiler.reset()  # else the variants of a few layers would use up how often a function may be recompiled
    torch.manual_seed(0)
    model = nn.Sequential(case.make()).to(device, dtype).requires_grad_(False)
    x = torch.randn(case.input_shape).to(device, dtype).requires_grad_()
    dy = torch.randn_like(model(x))
    states = random_states(model, AdapterSpec(rank=rank), seed=0)
    calls: dict[str, Call] = {}
    for variant in VARIANTS:
        adapted = variant.adapt(model, states)
        calls[variant.name] = partial(forward_backward, adapted, x, dy)
        if adapted.adapter and variant.axis:
            calls[f"{variant.name}, fresh norm"] = partial(_refresh_forward_backward, adapted, x, dy)
        if adapted.adapter and with_compiled:
            passes, whole = variant.adapt(model, states), variant.adapt(model, states)
            passes.compile_passes()
            whole.model.compile(dynamic=False)
            calls[f"{variant.name}, passes compiled"] = partial(forward_backward, passes, x, dy)
            calls[f"{variant.name}, layer compiled"] = partial(forward_backward, whole, x, dy)
    return calls


def forward_backward(adapted: Adapted, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The output, then the gradients of the input and of what is learned."""
    with autocast(x):
        y = adapted.model(x)
    return y.detach(), *torch.autograd.grad(y, (x, *adapted.parameters), dy)


def _refresh_forward_backward(adapted: Adapted, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    adapted.refresh_norms()
    return forward_backward(adapted, x, dy)
