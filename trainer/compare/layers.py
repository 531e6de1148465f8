"""What adapters change in each layer: the numbers of the DoRA paper's section 3, from the files, and their plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dora_core.analysis import Adaptation, LayerChange, analyze_adaptation
from dora_core.atomic import atomic_write
from dora_core.parity import StoredAdapter, intended_by_file, read_stored
from dora_core.spec import NormAxis
from dora_core.state import AdapterState
from trainer.base_weights import BaseModel
from trainer.compare.manifest import AnalysisEntry, LayerEntry
from trainer.compare.sources import Source

_UNET_ORDER = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block", "up_blocks", "conv_out")
_SHAPES = "os^Dv<>P"


def analyze_sources(sources: Sequence[Source], base: BaseModel) -> tuple[AnalysisEntry, ...]:
    """Each along its own axis; a LoRA along that of the first DoRA, so that the two can be compared."""
    axes: list[NormAxis] = [source.info.norm_axis for source in sources if source.info.norm_axis is not None]
    shared = axes[0] if axes else None
    return tuple(_analyzed(source, base, source.info.norm_axis or shared) for source in sources)


def plot_layers(analysis: Sequence[AnalysisEntry], path: Path) -> None:
    """Two panels, magnitude above direction: a column per layer, a mark per file."""
    names = sorted({layer.name for entry in analysis for layer in entry.layers}, key=_model_order)
    figure = Figure(figsize=(11, 6), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _panel(above, analysis, names, lambda layer: layer.magnitude_change)
    _panel(below, analysis, names, lambda layer: layer.direction_change)
    above.set_title("Change of magnitude by layer", fontsize=10, loc="left")
    below.set_title("Change of direction by layer", fontsize=10, loc="left")
    axes = {entry.axis for entry in analysis}
    vectors = "vectors" if len(axes) > 1 else {"input": "columns", "output": "rows"}[axes.pop()]
    above.set_ylabel(rf"mean $|\,\Vert w\Vert-\Vert w_0\Vert\,|$ over {vectors}")
    below.set_ylabel(rf"mean $1-\cos(w,w_0)$ over {vectors}")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    _name_blocks(below, names)
    with atomic_write(path) as file:
        FigureCanvasAgg(figure).print_png(file)


def _analyzed(source: Source, base: BaseModel, axis: NormAxis | None) -> AnalysisEntry:
    found = _adaptation(read_stored(source.file, base.modules), base, axis)
    return AnalysisEntry(
        title=source.title,
        source=source.said,
        axis=found.axis,
        magnitude_change=found.magnitude_change,
        direction_change=found.direction_change,
        correlation=found.correlation,
        layers=tuple(_entry(layer) for layer in sorted(found.layers, key=lambda layer: _model_order(layer.name))),
    )


def _adaptation(stored: StoredAdapter, base: BaseModel, axis: NormAxis | None) -> Adaptation:
    """From the state that the file holds; from what it means, one layer at a time, where that is something else."""
    if stored.info.layout != "kohya-compensated":
        return analyze_adaptation(base.weights, AdapterState(stored.layers, stored.info.norm_axis), axis)
    intended = intended_by_file(stored)
    each = [
        analyze_adaptation(base.weights, {name: intended(name, base.weights[name].double())}, axis)
        for name in stored.layers
    ]
    return Adaptation(each[0].axis, tuple(one.layers[0] for one in each))


def _entry(layer: LayerChange) -> LayerEntry:
    return LayerEntry(
        name=layer.name,
        block=_block(layer.name),
        magnitude_change=layer.magnitude_change,
        direction_change=layer.direction_change,
        relative_update=layer.relative_update,
    )


def _panel(
    axes: Axes, analysis: Sequence[AnalysisEntry], names: Sequence[str], value: Callable[[LayerEntry], float]
) -> None:
    """On a logarithmic axis, which has no place for a layer that did not change at all."""
    for number, entry in enumerate(analysis):
        values = {layer.name: value(layer) for layer in entry.layers if value(layer) > 0}
        places = [names.index(name) for name in values]
        shape = _SHAPES[number % len(_SHAPES)]
        filled = "none" if number % 2 else "full"  # of two at one place, both are seen
        # No formula, and not left out for a leading underscore.
        label = f" {entry.title} ({entry.axis} axis)".replace("$", r"\$")
        axes.plot(places, list(values.values()), shape, label=label, markersize=4.5, fillstyle=filled)
    axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.3)
    axes.margins(x=0.01)


def _name_blocks(axes: Axes, names: Sequence[str]) -> None:
    """Lines between the blocks in both panels, their names below, those of one or two layers left out."""
    ticks: dict[float, str] = {}
    first = 0
    for block, members in groupby(names, key=_block):
        after = first + len(list(members))
        if after - first > len(names) / 40:
            ticks[(first + after - 1) / 2] = block
        for panel in axes.figure.axes:
            panel.axvline(after - 0.5, color="0.85", linewidth=0.8, zorder=0)
            panel.tick_params(axis="x", length=0)
        first = after
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_xlabel("layers in the order of the model")


def _block(name: str) -> str:
    """down 0, mid, up 1, text encoder."""
    part, first, second, *_ = f"{name}..".split(".")
    if part != "unet":
        return part.replace("_", " ")
    stage = first.removesuffix("_blocks").removesuffix("_block").replace("_", " ")
    return f"{stage} {second}" if second.isdigit() else stage


def _model_order(name: str) -> tuple[object, ...]:
    """Text encoders first, as the data goes; numbers by their value."""
    part, first, *rest = name.split(".")
    stage = _UNET_ORDER.index(first) if first in _UNET_ORDER else len(_UNET_ORDER)
    numbered = tuple((int(word), "") if word.isdigit() else (-1, word) for word in rest)
    return part == "unet", part, stage, numbered
