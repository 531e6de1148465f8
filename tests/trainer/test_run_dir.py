"""A run directory is there whole or not at all, is held by one process, and its requests reach that one."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer import locks
from trainer.run_dir import ExitRecord, RunBusyError, RunDir, slug, tail

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from trainer.run_dir import RunDir
with RunDir(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.make(tmp_path / "runs", "A run", {"run.toml": b"x = 1\n"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Red Panda!", "red-panda"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "run"),
        ("日本", "run"),
        ("Émile  ", "emile"),
        ("x" * 500, "x" * 40),
        ("<b>${a}</b>", "b-a-b"),
    ],
)
def test_any_name_makes_a_folder_name_that_every_system_takes(tmp_path: Path, name: str, expected: str) -> None:
    assert slug(name) == expected
    run = RunDir.make(tmp_path, name, {"run.toml": b""})
    assert run.path.parent == tmp_path
    assert run.id[16:-5] == expected


def test_names_that_windows_reserves_are_safe_between_date_and_number(tmp_path: Path) -> None:
    made = [RunDir.make(tmp_path, "nul", {"run.toml": b""}) for _ in range(20)]
    assert len({run.id for run in made}) == 20
    assert all(run.id[0].isdigit() for run in made)


def test_a_run_that_cannot_be_made_whole_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-folder"):
        RunDir.make(tmp_path, "x", {"run.toml": b"", "no-such-folder/file": b""})
    assert list(tmp_path.iterdir()) == []


def test_requests_before_and_during_a_run_count_and_none_is_left_after_it(run: RunDir) -> None:
    run.request("stop")
    with run.hold():
        assert run.requested("stop")
        run.request("sample")
        run.request("sample")
        assert run.requested("sample")
        run.clear("sample")
        run.clear("sample")
        assert not run.requested("sample")
    assert not run.requested("stop")


def test_a_run_is_locked_exactly_while_it_is_held(run: RunDir) -> None:
    assert not run.is_locked()
    with run.hold():
        assert run.is_locked()
    assert not run.is_locked()


def test_two_cannot_hold_one_run_and_the_message_names_it(run: RunDir) -> None:
    with run.hold(), pytest.raises(RunBusyError, match=run.id), run.hold():
        pass


def test_kill_9_frees_the_lock_at_once(run: RunDir) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert run.is_locked()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not run.is_locked()
    with run.hold():
        pass


def test_many_readers_of_the_lock_neither_see_each_other_nor_keep_a_trainer_out(run: RunDir) -> None:
    with run.hold():
        pass
    with ThreadPoolExecutor(8) as readers:
        probes = [readers.submit(locks.is_locked, run.lock_file) for _ in range(4000)]
        assert not any(probe.result() for probe in probes)
        probes = [readers.submit(locks.is_locked, run.lock_file) for _ in range(4000)]
        for _ in range(50):
            with run.hold():
                pass


def test_an_exit_record_reads_back_and_is_gone_when_the_run_is_taken_up_again(run: RunDir) -> None:
    record = ExitRecord(at=1, code=-9, sentence="Killed.", fix="Close programs.", tail="last line")
    run.write_exit(record)
    assert run.read_exit() == record
    with run.hold():
        assert run.read_exit() is None


def test_a_damaged_exit_record_is_none(run: RunDir) -> None:
    run.exit_file.write_bytes(b'{"v": 1, "at"')
    assert run.read_exit() is None


def test_the_tail_of_a_log_of_any_bytes_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert tail(log) == ""
    log.write_bytes(b"\xff\xfe\x00" * 100_000 + b"\nlast but one\nlast \xff\n")
    assert tail(log, lines=2) == "last but one\nlast \ufffd"
    log.write_bytes(b"first\r\n  0%\r 50%\r100%\nlast\n")
    assert tail(log) == "first\n100%\nlast"
