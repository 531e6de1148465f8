"""Graphics cards as the driver describes them, without torch, and what a worker may run at the same time."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Card:
    uuid: str
    name: str
    total_mib: int
    used_mib: int
    celsius: int
    compute_capability: str


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver; `problem` says why there are no cards, where there should be."""

    version: str = ""
    cards: tuple[Card, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Device:
    """A place for one job, and the environment that confines the job to it."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def devices(environment: Mapping[str, str], driver: Driver) -> tuple[Device, ...]:
    """One per card that this process may use, else the processor."""
    if VISIBLE in environment:
        chosen = [name.strip() for name in environment[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    else:
        chosen = [card.uuid for card in driver.cards]
    return tuple(Device(name, {VISIBLE: name}) for name in chosen) or (Device("cpu"),)


def read_driver() -> Driver:
    """The driver and its cards, now; without the library (nvidia-ml-py) or a driver there are none."""
    if find_spec("pynvml") is None:
        return Driver(problem="nvidia-ml-py is not installed")
    nvml = import_module("pynvml")
    try:
        with _session(nvml):
            count = nvml.nvmlDeviceGetCount()
            return Driver(nvml.nvmlSystemGetDriverVersion(), tuple(_card(nvml, index) for index in range(count)))
    except nvml.NVMLError as error:
        return Driver(problem=str(error))


@contextmanager
def _session(nvml: ModuleType) -> Generator[None, None, None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _card(nvml: ModuleType, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Card(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        total_mib=memory.total // 2**20,
        used_mib=memory.used // 2**20,
        celsius=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        compute_capability=f"{major}.{minor}",
    )
