"""Export with proof: write, read back from disk, compare as the program that the file is for computes it, publish."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dora_core.atomic import atomic_write, replace
from dora_core.families import ModelModules
from dora_core.files import write_adapter
from dora_core.formats import Precision
from dora_core.header import read_header
from dora_core.metadata import OWN_PREFIX, About
from dora_core.parity import check_parity, intended_by_state, read_stored
from dora_core.parity_report import ParityReport
from dora_core.spec import Form
from dora_core.state import AdapterState
from dora_core.tensorfile import write_tensors
from trainer.export_targets import TARGETS, ExportTarget
from trainer.failures import ExplainedError


class UnprovenError(ExplainedError):
    """A file that its own consumer would not render as trained; it was not published. `report` has the numbers."""

    category = "unproven file"

    def __init__(self, report: ParityReport) -> None:
        self.report = report
        missing = f" It lacks {len(report.missing)} layers, first {report.missing[0]}." if report.missing else ""
        super().__init__(
            f"{report.headline}{missing} No file was written.", "Export with the target diff, which holds any adapter."
        )


class WrongTargetError(ExplainedError):
    """A kind of file that cannot hold this kind of adapter."""

    category = "bad settings"


@dataclass(frozen=True)
class Exported:
    path: Path
    report: ParityReport
    precision: Precision  # of the factors
    added: tuple[str, ...]  # text-encoder projections without effect, which complete an attention block


def export_adapter(
    state: AdapterState,
    base: Mapping[str, Tensor],
    modules: ModelModules,
    target: ExportTarget,
    path: str | os.PathLike[str],
    about: About | None = None,
    device: torch.device | None = None,
) -> Exported:
    """Publish `state` at `path` and the report beside it, if the file passes; else UnprovenError, and no file.

    `base` gives W0 by neutral name, and may read it when asked. Factors are float16; where that costs too much,
    float32. Raises WrongTargetError where the target cannot hold it, FileFormatError where it does not fit,
    FileNotFoundError where the folder that the path's own lies in is not there: a run that is gone is not made again.
    """
    path = Path(path)
    check_target(state, target)
    state = AdapterState({name: x.to(torch.device("cpu")) for name, x in state.layers.items()}, state.norm_axis)

    def drafted(folder: Path, precision: Precision) -> _Draft:
        draft = folder / precision / path.name
        draft.parent.mkdir()
        added = write_adapter(draft, state, modules, target.layout, about, base, precision).added
        stored, intended = read_stored(draft, modules), intended_by_state(state)
        report = check_parity(stored, base, intended, target.consumer, state.layers, device or checking_device())
        return _Draft(draft, Exported(path, report, precision, added))

    path.parent.mkdir(exist_ok=True)
    # A folder beside the final place: on the same disk, for the rename; with the same file name, which metadata repeat.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        draft = drafted(Path(folder), "half")
        if not draft.outcome.report.passed:
            draft = drafted(Path(folder), "full")
        if not draft.outcome.report.passed:
            raise UnprovenError(draft.outcome.report)
        _publish(draft)
    return draft.outcome


@dataclass(frozen=True)
class _Draft:
    path: Path
    outcome: Exported


def check_target(state: AdapterState, target: ExportTarget) -> None:
    """Raises WrongTargetError where `target` cannot hold an adapter of this kind; it names the targets that can."""
    form = state.form
    if form in target.forms:
        return
    kinds: dict[Form, str] = {None: "plain LoRA", "full": "full difference"}
    kind = kinds.get(form, f"DoRA on the {form} axis")
    others = [f"{other.name} for {other.renders_in(form)}" for other in TARGETS.values() if form in other.forms]
    raise WrongTargetError(
        f"The target {target.name} cannot hold a {kind}.", f"Choose one of these: {'; '.join(others)}."
    )


_ROOM_BYTES = 3 * 2**30  # for SDXL's largest weight, 10240 x 1280, in float64 with all that is computed from it


def checking_device(name: str | None = None) -> torch.device:
    """Where to compute a check; without a name on a card, if there is one with room beside what is loaded."""
    return torch.device(name or ("cuda" if _room_on_card() > _ROOM_BYTES else "cpu"))


def _room_on_card() -> int:
    if not torch.cuda.is_available():
        return 0
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + kept


def report_path(path: str | os.PathLike[str]) -> Path:
    """Where the report of an exported file lies: ``panda.safetensors`` has ``panda.parity.json`` beside it."""
    return Path(path).with_suffix(".parity.json")


def _publish(draft: _Draft) -> None:
    """The very tensors that were checked, under the final name, with the headline in the metadata; the report first."""
    path, report = draft.outcome.path, draft.outcome.report
    proven = draft.path.with_suffix(".proven")
    metadata = {**read_header(draft.path).metadata, f"{OWN_PREFIX}parity": report.headline}
    written = write_tensors(proven, load_file(draft.path), metadata)
    with atomic_write(report_path(path)) as file:
        file.write(report.to_json(path.name, written.sha256).encode())
    replace(proven, path)
