"""What a run would do, need and stumble over, in seconds: pictures, steps, memory, minutes, disk, and every problem.

No weights are read and torch is not imported: the page asks for a plan while a form is filled in, `train` before it
loads anything.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import psutil

from dora_core.errors import FileFormatError
from trainer.base_choices import clip_skip_refusal, vae_refusal
from trainer.base_files import BaseFacts, look_up
from trainer.config import RunConfig
from trainer.config_errors import Problem
from trainer.config_sections import Precision
from trainer.data.report import (
    DatasetReport,
    Scan,
    batches_per_pass,
    notices_of_all,
    notices_of_sets,
    report_datasets,
)
from trainer.data.scan import scan
from trainer.devices import read_driver
from trainer.disk import MARGIN_BYTES, free_bytes
from trainer.export_targets import FINISHING
from trainer.home import Home
from trainer.memory_advice import ways_to_fit
from trainer.objective_notices import objective_notices
from trainer.optimizers import what_is_missing
from trainer.plan_notices import settings_notices
from trainer.speed import Expectation, expected_speed
from trainer.twins import configs_of
from trainer.vram import (
    FLOAT32,
    Memory,
    adapter_parameters,
    checkpoint_bytes,
    parts_below_rank,
    training_memory,
    unmatched_patterns,
)
from trainer.writer_packages import writer_problems


@dataclass(frozen=True)
class Machine:
    """Where it would be trained: a card, or the processor."""

    name: str
    memory_bytes: int
    is_card: bool


@dataclass(frozen=True)
class DiskPart:
    name: str
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """`problems` must be solved first; `notices` are for reading. None: cannot be told, and one of them says why."""

    config: RunConfig
    machine: Machine
    datasets: tuple[DatasetReport, ...]  # data's own, then those of data.more
    base: BaseFacts | None
    passes: float  # over the pictures
    trainable: Mapping[str, int]  # parameters, by part of the base model; of a twin run, DoRA's
    memory: Memory | None  # of a twin run, the larger one's
    speeds: tuple[Expectation, ...]  # of each run; () before the first with this base model
    disk: tuple[DiskPart, ...]
    free_disk_bytes: int
    problems: tuple[Problem, ...]
    notices: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        return not self.problems

    @property
    def pictures(self) -> int:
        return sum(report.count for report in self.datasets)

    @property
    def seconds(self) -> float | None:
        """Of all steps of all runs, without loading, samples and checkpoints."""
        return sum(speed.seconds_per_step for speed in self.speeds) * self.config.train.steps if self.speeds else None

    @property
    def disk_bytes(self) -> int:
        return sum(part.size_bytes for part in self.disk)


def plan(config: RunConfig, home: Home | None = None, machine: Machine | None = None, look_at: Scan = scan) -> Plan:
    """The plan of a run on this machine, with what `home` remembers of its speed.

    `look_at`: `scan`, or what gives the same and remembers it.
    """
    home = home or Home.find()
    machine = machine or this_machine()
    datasets = report_datasets(config.data, look_at)
    trained = [report for report in datasets if report.settings not in config.data.kept]
    base, base_problems = _base(config)
    is_known = base is not None and base.family is not None
    runs = configs_of(config)
    adapters = [adapter_parameters(run, base) for run in runs] if base and is_known else []
    memory_of = partial(_memory, machine=machine, is_text_live=any(None in report.wordings for report in datasets))
    memory = memory_of(config, base) if base and is_known else None
    checkpoints = [checkpoint_bytes(run, base) for run in runs] if base and is_known else []
    disk = _disk(runs, datasets, base, [sum(parts.values()) for parts in adapters] or [0] * len(runs), checkpoints)
    free = free_bytes(home.runs)
    problems = [
        *_data_problems(datasets),
        *base_problems,
        *_optimizer_problems(config, machine),
        *writer_problems(config.log),
        *(_adapter_problems(config, base) if base and is_known else []),
        *_disk_problems(disk, free),
    ]
    notices = [
        *notices_of_all(trained, config.train.batch_size),
        *notices_of_sets(datasets, 77 if base is None else base.tokens),
        *settings_notices(config, base),
        *objective_notices(config, base),
        *_machine_notices(machine),
        *(_memory_notices(config, machine, lambda changed: memory_of(changed, base)) if base and is_known else []),
    ]
    return Plan(
        config,
        machine,
        datasets,
        base,
        config.train.steps * config.train.accumulation / max(batches_per_pass(trained, config.train.batch_size), 1),
        adapters[-1] if adapters else {},
        memory,
        tuple(speed for run in runs if (speed := expected_speed(home, run, "cuda" if machine.is_card else "cpu"))),
        disk,
        free,
        tuple(problems),
        tuple(notices),
    )


def this_machine() -> Machine:
    """The first card that the driver knows, else the processor."""
    cards = read_driver().cards
    if cards:
        return Machine(cards[0].name, cards[0].total_mib * 2**20, True)
    return Machine(f"the processor ({platform.machine()})", psutil.virtual_memory().total, False)


def precision_on(config: RunConfig, machine: Machine) -> Precision:
    """What 'auto' comes to: bf16 on a card (those before 2020 have none, and take fp16, as large), fp32 elsewhere."""
    if config.train.precision != "auto":
        return config.train.precision
    return "bf16" if machine.is_card else "fp32"


def _base(config: RunConfig) -> tuple[BaseFacts | None, list[Problem]]:
    try:
        base = look_up(config.model.base, config.model.revision)
    except FileFormatError as error:
        return None, [Problem("model.base", f"model.base: {error}")]
    try:
        refusal = vae_refusal(config.model.vae, base)
    except FileFormatError as error:
        refusal = str(error)
    problems = [Problem("model.vae", f"model.vae: {refusal}")] if refusal else []
    if refusal := clip_skip_refusal(config.model.clip_skip, base):
        problems.append(Problem("model.clip_skip", f"model.clip_skip: {refusal}"))
    return base, problems


def _data_problems(datasets: Sequence[DatasetReport]) -> list[Problem]:
    """By the key of the setting; of a further set by that of the list, which says the number."""
    first, *more = datasets
    problems = [Problem(f"data.{text.split(' ')[0].rstrip(':')}", f"data.{text}") for text in first.problems]
    return problems + [
        Problem("data.more", f"data.more, entry {number}: {text}")
        for number, report in enumerate(more, start=1)
        for text in report.problems
    ]


def _adapter_problems(config: RunConfig, base: BaseFacts) -> list[Problem]:
    if wrong := unmatched_patterns(config, base):
        whose = {"adapter.ranks": "no layer that is adapted"}
        return [
            Problem(key, f"{key} has {', '.join(patterns)}: {whose.get(key, f'no layer of {base.name}')} is called so")
            for key, patterns in wrong.items()
        ]
    if not adapter_parameters(config, base)["unet"]:
        return [Problem("adapter.exclude", "adapter.exclude leaves no layer of the UNet: take globs out")]
    if below := parts_below_rank(config, base):
        part, most = min(below.items(), key=lambda item: item[1])
        sentence = f"adapter.rank is {config.adapter.rank}: no layer of the {part} can have more than {most}, lower it"
        return [Problem("adapter.rank", sentence)]
    return []


def _optimizer_problems(config: RunConfig, machine: Machine) -> list[Problem]:
    missing = what_is_missing(config.optim.kind, machine.is_card)
    return [Problem("optim.kind", ": ".join(missing))] if missing else []


def _disk(
    runs: Sequence[RunConfig],
    datasets: Sequence[DatasetReport],
    base: BaseFacts | None,
    trained: Sequence[int],
    checkpoints: Sequence[int],
) -> tuple[DiskPart, ...]:
    """Upper ends: pictures are counted as if PNG did not make them smaller. `trained`: parameters of each run.

    `checkpoints`: bytes of one, of each run.
    """
    config = runs[0]
    width, height = config.sample.size_px or (config.data.resolution_px,) * 2
    every, steps = config.sample.every_steps, config.train.steps
    rounds = 2 + (steps // every if every else 0)
    shown = [one.bucket for report in datasets for p in report.placements for one in report.variants(p)]
    is_kept = config.data.cache == "disk"
    latent_values = sum(bucket.width * bucket.height // 64 * 4 for bucket in shown) if is_kept else 0
    checkpoint = sum(checkpoints)
    files = [len(FINISHING[run.adapter.form]) for run in runs]
    exported = sum(count * each * FLOAT32 for count, each in zip(files, trained, strict=True))
    is_fetched = base is None or base.path is not None
    class_pictures = config.data.prior.count if config.data.prior else 0
    parts = (
        DiskPart(
            f"checkpoints, {config.save.keep_last} and one being written", checkpoint * (config.save.keep_last + 1)
        ),
        DiskPart("exported files", exported),
        DiskPart("samples", rounds * max(len(config.sample.prompts), 1) * width * height * 3 * len(runs)),
        DiskPart("prepared pictures", latent_values * FLOAT32),
        DiskPart("class pictures", class_pictures * config.data.resolution_px**2 * 3),
        DiskPart("the base model, to be fetched", 0 if is_fetched or base is None else base.bytes_on_disk),
    )
    return tuple(part for part in parts if part.size_bytes)


def _disk_problems(disk: tuple[DiskPart, ...], free: int) -> list[Problem]:
    need = sum(part.size_bytes for part in disk)
    if need + MARGIN_BYTES <= free:
        return []
    sentence = f"the run needs up to {need / 2**30:.1f} GiB of disk and {free / 2**30:.1f} GiB are free: make room"
    return [Problem("", f"{sentence}, or lower save.keep_last")]


def _memory(config: RunConfig, base: BaseFacts, machine: Machine, is_text_live: bool) -> Memory:
    """Of twins the larger one's."""
    memories = [
        training_memory(run, base, precision_on(run, machine), machine.is_card, is_text_live)
        for run in configs_of(config)
    ]
    return max(memories, key=lambda one: one.peak_bytes)


def _machine_notices(machine: Machine) -> list[str]:
    if machine.is_card:
        return []
    return ["no NVIDIA card was found: training runs on the processor, which only suits the starter model"]


def _memory_notices(config: RunConfig, machine: Machine, memory_of: Callable[[RunConfig], Memory]) -> list[str]:
    peak, room = memory_of(config).peak_bytes, round(0.95 * machine.memory_bytes)
    if peak <= room:
        return []
    have = f"{machine.memory_bytes / 2**30:.1f} GiB of {machine.name}"
    ways = ways_to_fit(config, lambda changed: memory_of(changed).peak_bytes, room)
    left = peak - sum(saved for _, saved in ways)
    told = [f"{change.sentence}, which saves {saved / 2**20:,.0f} MiB" for change, saved in ways]
    told += [f"then it takes about {left / 2**30:.1f} GiB" if left <= room else "choose a smaller base model"]
    return [f"about {peak / 2**30:.1f} GiB may not fit the {have}: {'; '.join(told)}"]
