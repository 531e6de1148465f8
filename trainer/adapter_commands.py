"""What the commands export, verify and analyze do, and what they print."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dora_core.analysis import Adaptation, analyze_adaptation
from dora_core.consumers import BY_KEY
from dora_core.layouts import inspect_adapter
from dora_core.metadata import OWN_PREFIX
from dora_core.parity import check_parity, intended_by_file, read_stored
from dora_core.parity_report import ParityReport, share
from dora_core.rendering import COMFYUI
from dora_core.spec import NormAxis
from trainer.adapter_source import AdapterSource, SourceError, base_named, open_source
from trainer.base_weights import BaseModel
from trainer.comfyui import ComfyUIAnswer, ask_comfyui
from trainer.export import UnprovenError, check_target, checking_device, export_adapter, report_path
from trainer.export_targets import TARGETS, finishing_targets
from trainer.inspection import is_model
from trainer.merged_pipeline import export_merged
from trainer.parity_table import print_report
from trainer.store import Store


def publish(opened: AdapterSource, target: str | None, out: Path | None, device: str | None, console: Console) -> None:
    """Raises UnprovenError after the table that says why."""
    row = TARGETS[target] if target else finishing_targets(opened.state.form)[0]
    check_target(opened.state, row)
    path = out or Path(f"{opened.name}{row.ending}")
    path.parent.mkdir(parents=True, exist_ok=True)
    base = opened.base
    try:
        with console.status(f"checking {len(opened.state.layers)} layers"):
            done = export_adapter(
                opened.state, base.weights, base.modules, row, path, opened.about, checking_device(device)
            )
    except UnprovenError as error:
        print_report(error.report, console)
        raise
    print_report(done.report, console)
    if done.precision == "full":
        console.print("The factors are float32: in float16 the file would not have passed.")
    if done.added:
        console.print(f"{len(done.added)} text-encoder projections without effect were added: programs need all four.")
    console.print(f"{done.path}, and its report {report_path(done.path).name}", soft_wrap=True)


def publish_merged(opened: AdapterSource, out: Path | None, console: Console) -> None:
    folder = export_merged(opened.state, opened.base, out or Path(f"{opened.name}-merged"))
    console.print(f"{folder}: every weight reads back as computed, rounded once to its own type", soft_wrap=True)


@dataclass(frozen=True)
class Checked:
    file: Path
    base: BaseModel
    report: ParityReport

    def write_json(self, path: Path) -> None:
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        path.write_text(self.report.to_json(self.file.name, digest), encoding="utf-8")


def check(file: Path, base: str | None, device: str | None, console: Console) -> Checked:
    named = base or inspect_adapter(file).metadata.get(f"{OWN_PREFIX}base_model")
    if named is None:
        raise SourceError(f"{file} does not say which base model it belongs to.", "Give it with --base.")
    model = base_named(named)
    with console.status("computing every layer as every program does"):
        stored = read_stored(file, model.modules)
        report = check_parity(stored, model.weights, intended_by_file(stored), device=checking_device(device))
    print_report(report, console)
    return Checked(file, model, report)


_TOLERANCE = BY_KEY["comfyui"].tolerance


def ask(folder: Path, checked: Checked, python: Path | None, console: Console) -> bool:
    """Whether that ComfyUI renders what the file means; where the file is for another program, that is no fault."""
    with console.status(f"asking {folder}"):
        answer = ask_comfyui(folder, checked.file, checked.base.path, python)
    count = len(answer.errors)
    is_exact = answer.worst <= _TOLERANCE and not answer.unmatched
    console.print(
        Text(
            f"{answer.program} itself: {count - len(answer.unmatched)} of {count} layers found, typical error "
            f"{share(answer.median)} of the update, worst {share(answer.worst)} ({answer.worst_layer}).",
            "green" if is_exact else "red",
        ),
        soft_wrap=True,
    )
    if not answer.names_checked:
        console.print("It cannot load a model of this size, so its names of the layers were taken as right.")
    surprise = _surprise(answer, checked.report)
    if surprise > _TOLERANCE:
        text = f"That is off by {share(surprise)} from what we know of ComfyUI: this one computes something else."
        console.print(Text(text, "yellow"), soft_wrap=True)
    return is_exact or checked.report.target.consumer.program != COMFYUI


def _surprise(answer: ComfyUIAnswer, report: ParityReport) -> float:
    """The largest difference between what ComfyUI did and what our formula of it says, relative to the update."""
    return max(
        abs(error - layer.errors.get(("comfyui", strength), error))
        for layer in report.layers
        for strength, error in zip(answer.strengths, answer.errors[layer.name], strict=True)
    )


def measure(
    source: str, base: str | None, axis: NormAxis | None, store: Store, out: Path | None, console: Console
) -> None:
    found = _measured(source, base, axis, store)
    console.print(Text(found.table()), soft_wrap=True)
    correlation = "" if found.correlation is None else f"; over layers they correlate by {found.correlation:+.2f}"
    console.print(
        f"Along the {found.axis} axis, magnitudes change by {found.magnitude_change:.3g} and directions by "
        f"{found.direction_change:.3g} on average{correlation}.",
        soft_wrap=True,
    )
    if out is not None:
        out.write_text(_as_json(found), encoding="utf-8")


def _measured(source: str, base: str | None, axis: NormAxis | None, store: Store) -> Adaptation:
    if is_model(Path(source)):
        if base is None:
            raise SourceError(f"{source} is a whole model.", "Name the one that it was made from with --base.")
        return analyze_adaptation(base_named(base).weights, base_named(source).weights, axis)
    opened = open_source(source, base, store)
    return analyze_adaptation(opened.base.weights, opened.state, axis)


def _as_json(found: Adaptation) -> str:
    whole = {
        name: getattr(found, name)
        for name in ("axis", "magnitude_change", "direction_change", "correlation", "update_norm", "drift")
    }
    layers = [asdict(layer) | {"drift": layer.drift} for layer in found.layers]
    return json.dumps({**whole, "layers": layers}, indent=1) + "\n"
