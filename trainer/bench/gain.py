"""How much of a small gain survives bfloat16.

DoRA's gain g = m / n differs from 1 by some thousandths, a bfloat16 number from its neighbour by four to eight of them:
an implementation that rounds at the wrong place has a magnitude that does nothing. Measured is the slope of the least
squares line of y_dora - y_base over the gain's true effect in float64: 1 where it survives, 0 where it is rounded away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dora_core.algebra import along, squared_norm
from dora_core.spec import NormAxis
from dora_core.state import AdapterState, LayerWeights
from trainer.bench.layers import Case
from trainer.bench.report import Column, Table
from trainer.bench.variants import VARIANTS, Variant, adapt_with_ours

SPREADS = (
    0.0005,
    0.0015,
    0.005,
)  # standard deviations of g; 0.0015 was measured on a trained adapter, arXiv 2603.22276
CASES = (
    Case("Linear", partial(nn.Linear, 320, 640), (1, 2048, 320)),
    Case("Conv 3x3", partial(nn.Conv2d, 64, 96, 3, padding=1), (2, 64, 32, 32)),
)


@dataclass(frozen=True)
class Path:
    """A way through a layer under autocast. Its weight is bfloat16 and its magnitude float32, as in training."""

    title: str
    input_dtype: torch.dtype
    is_compiled: bool = False  # ours only


PATHS = (Path("bfloat16 input", torch.bfloat16), Path("float32 input", torch.float32))
COMPILED_PATHS = tuple(Path(f"{path.title}, compiled", path.input_dtype, is_compiled=True) for path in PATHS)


def gain_table(cases: Sequence[Case], paths: Sequence[Path], device: torch.device) -> Table:
    columns = (Column("variant"), Column("layer"), Column("path"), *(Column(f"{s:g}", ".2f") for s in SPREADS))
    title = "Share of a gain's effect that survives bfloat16, by the spread of the gain"
    return Table(title, columns, tuple(_rows(cases, paths, device)))


def surviving_slope(case: Case, variant: Variant, path: Path, spread: float, device: torch.device) -> float:
    """For gains spread normally around 1; the low-rank update is zero."""
    assert variant.axis is not None
    torch.manual_seed(0)
    base = nn.Sequential(case.make()).to(torch.bfloat16).requires_grad_(False)
    weight = base.get_parameter("0.weight")
    norm = squared_norm(weight, variant.axis).sqrt()
    gain = 1 + spread * torch.randn(norm.shape)
    x = torch.randn(case.input_shape).to(path.input_dtype)
    true_effect = _effect(base, along(gain.double() - 1, weight, variant.axis), x)
    adapted = variant.build(deepcopy(base), _pure_gain(weight, norm * gain, variant.axis)).model.to(device)
    if path.is_compiled:
        torch.compiler.reset()  # else variants would use up how often a function may be recompiled
        adapted.compile(dynamic=False)
    base, x = base.to(device), x.to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        effect = (adapted(x).double() - base(x).double()).cpu()
    return float((effect * true_effect).sum() / true_effect.square().sum())


def _rows(cases: Sequence[Case], paths: Sequence[Path], device: torch.device) -> Iterator[tuple[str | float, ...]]:
    for case in cases:
        for variant in VARIANTS:
            is_ours = variant.build is adapt_with_ours
            for path in paths:
                if variant.axis and (is_ours or not path.is_compiled):
                    slopes = [surviving_slope(case, variant, path, spread, device) for spread in SPREADS]
                    yield variant.name, case.title, path.title, *slopes


def _effect(base: nn.Module, change: Tensor, x: Tensor) -> Tensor:
    """What multiplying the weight by 1 + `change` adds to the output, in float64."""
    layer = deepcopy(base).double()
    layer.get_parameter("0.weight").mul_(change)
    layer.get_parameter("0.bias").zero_()
    return layer(x.double())


def _pure_gain(weight: Tensor, magnitude: Tensor, axis: NormAxis) -> AdapterState:
    down = torch.randn(4, *weight.shape[1:])
    up = torch.zeros(weight.shape[0], 4, *[1] * (weight.dim() - 2))
    return AdapterState({"0": LayerWeights(down, up, 4, along(magnitude, weight, axis))}, axis)
