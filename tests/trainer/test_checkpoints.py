"""Checkpoints: whole or not there, damaged ones passed over, a full disk harmless."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dora_core.errors import FileFormatError
from dora_core.state import AdapterState, LayerWeights
from tests.trainer.test_loop import built
from trainer.checkpoints import ADAPTER, CheckpointStore, load_weights, read_state, restore, write_state
from trainer.config import RunConfig
from trainer.loop import take_step
from trainer.optim import named_parameters
from trainer.training import Training

Settings = Callable[..., RunConfig]


@pytest.fixture
def training(tmp_path: Path, tiny_settings: Settings) -> Training:
    return built(tmp_path, tiny_settings())[1]


def test_old_checkpoints_go_and_the_newest_undamaged_one_counts(tmp_path: Path, training: Training) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    assert store.newest() is None
    for step in (1, 2, 3):
        take_step(training, step)
        store.save(training)
    assert sorted(folder.name for folder in store.folder.iterdir()) == ["step-000002", "step-000003"]
    assert newest_step(store) == 3

    file = store.folder / "step-000003" / ADAPTER
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1  # one bit
    file.write_bytes(damaged)
    assert newest_step(store) == 2
    store.save(training)  # the damaged one is replaced
    assert newest_step(store) == 3

    shutil.rmtree(store.folder / "step-000002")
    (store.folder / "step-000003" / "optimizer.safetensors").unlink()
    assert store.newest() is None


def test_restoring_brings_back_weights_optimizer_and_progress(tmp_path: Path, training: Training) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    for step in (1, 2):
        take_step(training, step)
    training.progress.skipped = 1
    store.save(training)
    wanted = snapshot(training)
    take_step(training, 3)
    assert not same(snapshot(training), wanted)
    newest = store.newest()
    assert newest is not None
    restore(training, newest)
    assert same(snapshot(training), wanted)
    assert (training.progress.step, training.progress.skipped) == (2, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_while_saving_leaves_the_last_checkpoint_and_nothing_else(
    tmp_path: Path, training: Training
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    take_step(training, 1)
    store.save(training)
    take_step(training, 2)
    adapter_bytes = (store.folder / "step-000001" / ADAPTER).stat().st_size
    for limit_bytes in (100, adapter_bytes):  # too little for the adapter; for the optimizer's state behind it
        with files_limited_to(limit_bytes), pytest.raises(OSError, match="File too large") as failed:
            store.save(training)
        assert failed.value.errno == errno.EFBIG
        assert [folder.name for folder in store.folder.iterdir()] == ["step-000001"]
    assert newest_step(store) == 1
    store.save(training)
    assert newest_step(store) == 2


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    (tmp_path / ".tmp-step-000004-abcd").mkdir()
    (tmp_path / ".tmp-step-000004-abcd" / ADAPTER).touch()
    store.clean()
    assert list(tmp_path.iterdir()) == []


def test_a_state_keeps_every_bit_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=random) for shape in ((3, 5), (7, 3), (1, 5))]
    layer = LayerWeights(weights[0], weights[1], alpha=0.1 + 0.2, magnitude=weights[2])
    state = AdapterState({"unet.conv_in": layer}, "input")
    write_state(tmp_path / "state", state)
    read = read_state(tmp_path / "state")
    assert read.norm_axis == "input"
    assert read.factors["unet.conv_in"].alpha == layer.alpha
    assert all(
        torch.equal(getattr(read.layers["unet.conv_in"], part), getattr(layer, part))
        for part in ("down", "up", "magnitude")
    )
    weights[1][2, 2] = torch.nan
    with pytest.raises(FileFormatError, match=r"no numbers, first unet\.conv_in\.up"):
        write_state(tmp_path / "other", state)
    assert not (tmp_path / "other").exists()


def test_weights_of_a_state_are_taken_over_by_name(training: Training, tmp_path: Path) -> None:
    take_step(training, 1)
    wanted = {name: p.detach().clone() for name, p in named_parameters(training.adapters).items()}
    write_state(tmp_path / "state", training.state())
    take_step(training, 2)
    load_weights(training.adapters, read_state(tmp_path / "state"))
    assert all(torch.equal(p, wanted[name]) for name, p in named_parameters(training.adapters).items())


def newest_step(store: CheckpointStore) -> int | None:
    newest = store.newest()
    return None if newest is None else newest.step


def snapshot(training: Training) -> dict[str, torch.Tensor]:
    values = {name: p.detach().clone() for name, p in named_parameters(training.adapters).items()}
    for name, parameter in named_parameters(training.adapters).items():
        values |= {f"{name}.{key}": v.clone() for key, v in training.optimizer.state.get(parameter, {}).items()}
    return values


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    import resource  # noqa: PLC0415 - POSIX only
    import signal  # noqa: PLC0415

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
