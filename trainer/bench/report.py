"""What was measured, on which machine and how, as JSON and as Markdown tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

import torch

from trainer.bench.timing import Timing

Cell = str | float


@dataclass(frozen=True)
class Column:
    title: str
    format: str = ""  # of the numbers in it, as in an f-string


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        titles = [column.title for column in self.columns]
        alignments = ["---:" if column.format else "---" for column in self.columns]
        rows = [[_shown(value, column) for value, column in zip(row, self.columns, strict=True)] for row in self.rows]
        return "\n".join(
            [f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in (titles, alignments, *rows))]
        )


@dataclass(frozen=True)
class Machine:
    """Read when the measurement begins."""

    processor: str
    threads: int
    load: tuple[
        float, ...
    ]  # average number of busy processes over 1, 5 and 15 minutes; empty where the system keeps none
    gpu: str | None
    versions: Mapping[str, str]
    started: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


@dataclass(frozen=True)
class Report:
    command: str
    machine: Machine
    tables: tuple[Table, ...]

    def with_table(self, table: Table) -> Report:
        return replace(self, tables=(*self.tables, table))

    def markdown(self) -> str:
        return "\n\n".join([self._origin(), *(table.markdown() for table in self.tables)])

    def write(self, file: Path) -> None:
        """JSON as `file`, Markdown beside it."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(self.markdown() + "\n", encoding="utf-8")

    def _origin(self) -> str:
        at = self.machine
        versions = ", ".join(f"{package} {version}" for package, version in at.versions.items())
        gpu = f", {at.gpu}" if at.gpu else ""
        load = f", load {at.load[0]:g} when it began" if at.load else ""
        return f"`{self.command}`: {at.processor}, {at.threads} threads{gpu}; {versions}; {at.started}{load}."


def timing_table(title: str, timings: Mapping[str, Timing], reference: str, busy: str = "CPU") -> Table:
    """Medians, minima, and their ratios to the reference's. `busy` says whose time `busy_ms` is."""
    columns = (
        Column("variant"),
        Column(f"{busy} median ms", ".1f"),
        Column(f"{busy} min ms", ".1f"),
        Column("wall median ms", ".1f"),
        Column("wall min ms", ".1f"),
        Column("per s", ".2f"),
        Column(f"{busy} median / {reference}", ".2f"),
        Column(f"{busy} min / {reference}", ".2f"),
        Column(f"median of {busy} ratios within rounds", ".2f"),
    )
    rows = [(name, *_figures(timing, timings[reference])) for name, timing in timings.items()]
    return Table(title, columns, tuple(rows))


def machine(device: torch.device) -> Machine:
    has_load = hasattr(os, "getloadavg")
    packages = ("torch", "peft", "lycoris-lora", "diffusers")
    installed = {each.name for each in metadata.distributions()}
    return Machine(
        processor=f"{processor_name()}, {os.cpu_count()} cores",
        threads=torch.get_num_threads(),
        load=tuple(round(value, 1) for value in os.getloadavg()) if has_load else (),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        versions={package: metadata.version(package) for package in packages if package in installed},
    )


def processor_name() -> str:
    """The marketing name where the system tells it."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor()


def _figures(timing: Timing, reference: Timing) -> tuple[float, ...]:
    busy, wall = timing.busy_ms, timing.wall_ms
    return (
        median(busy),
        min(busy),
        median(wall),
        min(wall),
        1e3 / median(wall),
        median(busy) / median(reference.busy_ms),
        min(busy) / min(reference.busy_ms),
        timing.paired_ratio(reference),
    )


def _shown(value: Cell, column: Column) -> str:
    return value if isinstance(value, str) else format(value, column.format)
