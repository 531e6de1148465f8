"""What a parity check found: numbers for machines, words for people, one headline for a file's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from dora_core.consumers import Consumer
from dora_core.layouts import Layout
from dora_core.rendering import Verdict
from dora_core.spec import NormAxis

FORMAT = "dora-studio-parity-1"


@dataclass(frozen=True)
class LayerParity:
    """One layer: errors relative to its update, by consumer and strength."""

    name: str
    update: float  # norm(W' - W0) / norm(W0)
    errors: Mapping[tuple[str, float], float]
    rounding: Mapping[str, float]  # by consumer: what rounding the ideal weight to the consumer's type alone costs


@dataclass(frozen=True)
class StrengthParity:
    strength: float
    worst: float
    worst_layer: str
    median: float


@dataclass(frozen=True)
class ConsumerParity:
    """One way to render the file. `strengths` is empty where the program does not read the file's layout."""

    consumer: Consumer
    modules: int  # in the file
    unresolved: tuple[str, ...]  # the file's own names of the modules that the program does not find
    strengths: tuple[StrengthParity, ...]
    rounding: float  # median over layers; 0 for float32
    means_the_same: bool  # whether the formula in float32 is exact; what half precision adds is a matter of digits
    only_full_strength: bool  # other strengths mean something else in this program

    @property
    def compared(self) -> tuple[StrengthParity, ...]:
        """The strengths at which a deviation is an error."""
        return tuple(s for s in self.strengths if s.strength == 1.0 or not self.only_full_strength)

    @property
    def worst(self) -> StrengthParity:
        return max(self.compared, key=lambda strength: strength.worst)

    @property
    def median(self) -> float:
        return max(strength.median for strength in self.compared)

    @property
    def verdict(self) -> Verdict:
        """Half precision is judged by its typical layer, against what rounding alone would cost there."""
        if not self.strengths:
            return "unread"
        if self.unresolved or not self.means_the_same:
            return "wrong"
        if not self.consumer.is_half:
            return "exact"
        return "close" if self.median <= max(self.consumer.tolerance, 3 * self.rounding) else "coarse"

    @property
    def words(self) -> str:
        """Errors are shares of the update."""
        if not self.strengths:
            return "does not read this layout"
        at = " at strength 1" if self.only_full_strength else ""
        if self.verdict == "exact":
            return f"as trained{at}, worst error {share(self.worst.worst)}"
        found = f"finds {self.modules - len(self.unresolved)} of {self.modules} layers, " if self.unresolved else ""
        rounding = f" (rounding alone {share(self.rounding)})" if self.consumer.is_half else ""
        return f"{found}typical error {share(self.median)}, worst {share(self.worst.worst)}{rounding}"


@dataclass(frozen=True)
class ParityReport:
    """Beside an exported file as JSON; its headline goes into the file's metadata."""

    layout: Layout
    norm_axis: NormAxis | None
    family: str
    recommended: str  # key of the consumer that the file is for
    consumers: tuple[ConsumerParity, ...]
    layers: tuple[LayerParity, ...]
    missing: tuple[str, ...]  # adapted layers that the file does not have
    not_certified: tuple[str, ...]

    @property
    def target(self) -> ConsumerParity:
        """How the consumer that the file is for renders it."""
        return next(parity for parity in self.consumers if parity.consumer.key == self.recommended)

    @property
    def passed(self) -> bool:
        """The gate: every layer there, and within the tolerance of the consumer that the file is for."""
        return not self.missing and self.target.verdict == "exact"

    @property
    def headline(self) -> str:
        program, worst = self.target.consumer.program, self.target.worst
        if not self.passed:
            return f"Not proven: {program}, {self.target.words} of the update (layer {worst.worst_layer})."
        exact, wrong = self._programs("exact", program), self._programs("wrong", program)
        return (
            f"{program} renders all {len(self.layers)} layers {self.target.words} of the update."
            + (f" Likewise {'; '.join(exact)}." if exact else "")
            + (f" Not so {'; '.join(wrong)}." if wrong else "")
        )

    def _programs(self, verdict: Verdict, but: str) -> list[str]:
        """Programs with that verdict in float32, each once."""
        rows = [parity for parity in self.consumers if not parity.consumer.is_half and parity.verdict == verdict]
        return list(dict.fromkeys(row.consumer.program for row in rows if row.consumer.program != but))

    def to_json(self, file_name: str, sha256: str) -> str:
        content = {
            "format": FORMAT,
            "file": file_name,
            "sha256": sha256,
            "passed": self.passed,
            "headline": self.headline,
            "family": self.family,
            "layout": self.layout,
            "norm_axis": self.norm_axis,
            "recommended": self.recommended,
            "consumers": [_consumer_entry(parity) for parity in self.consumers],
            "layers": {layer.name: self._layer_entry(layer) for layer in self.layers},
            "missing": list(self.missing),
            "not_certified": list(self.not_certified),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def _layer_entry(self, layer: LayerParity) -> dict[str, float | None]:
        return {
            "update": number(layer.update),
            "error": number(max(layer.errors[self.recommended, s.strength] for s in self.target.compared)),
        }


def _consumer_entry(parity: ConsumerParity) -> dict[str, object]:
    return {
        "key": parity.consumer.key,
        "program": parity.consumer.program,
        "path": parity.consumer.path,
        "verdict": parity.verdict,
        "words": parity.words,
        "matched": parity.modules - len(parity.unresolved) if parity.strengths else 0,
        "modules": parity.modules,
        "unresolved": sorted(parity.unresolved),
        "rounding": number(parity.rounding),
        "strengths": [
            {
                "strength": strength.strength,
                "compared": strength in parity.compared,
                "worst": number(strength.worst),
                "worst_layer": strength.worst_layer,
                "median": number(strength.median),
            }
            for strength in parity.strengths
        ],
    }


def share(error: float) -> str:
    """An error relative to the update, for people: 0.029 %, 46 %, 23 times."""
    if not math.isfinite(error):
        return "not a number"
    percent = 100 * error
    if percent >= 200:
        return f"{error:.0f} times"
    if percent >= 10:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %" if percent >= 1e-3 or not percent else "below 0.001 %"


def number(value: float) -> float | None:
    """Three digits; None, which JSON has, for what is not finite."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


def recommended_consumer(layout: Layout, norm_axis: NormAxis | None) -> str:
    """The key of the consumer that a file of this kind is for."""
    if layout == "peft":
        return "diffusers"
    return "lycoris" if layout == "kohya" and norm_axis == "output" else "comfyui"
