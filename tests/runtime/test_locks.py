"""A folder has one writer, whatever ends it, and whoever is gone is replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from glide_jax.errors import UserError
from glide_jax.runtime import holders, locks
from tests import fake_devices

# Takes the lock of a folder, says so, and holds it until its standard input ends.
HOLD = """
import logging, pathlib, sys
from glide_jax.errors import UserError
from glide_jax.runtime import locks

logging.basicConfig(format="%(message)s")

def refuse(*_):
    raise OSError(38, "Function not implemented")

if sys.argv[3] == "False":  # as on a file system without locks
    locks.fcntl.flock = refuse
try:
    with locks.FolderLock(pathlib.Path(sys.argv[1]), flag="--workdir",
                          wait_secs=float(sys.argv[2]), beat_secs=0.1, stale_secs=60):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


@pytest.fixture
def start(tmp_path) -> Iterator:
    """start(wait_secs=0) begins a process that takes the lock of tmp_path / "run"."""
    with contextlib.ExitStack() as stack:

        def start(wait_secs: float = 0.0, has_locks: bool = True) -> subprocess.Popen:
            words = [str(tmp_path / "run"), str(wait_secs), str(has_locks)]
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, *words],
                env={**os.environ, "PYTHONPATH": str(fake_devices.ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def said(process: subprocess.Popen) -> str:
    """The next line of a process."""
    return process.stdout.readline().rstrip("\n")


def lock(folder: pathlib.Path, **settings) -> locks.FolderLock:
    return locks.FolderLock(folder, flag="--workdir", **settings)


def refusal(folder: pathlib.Path, **settings) -> str:
    with pytest.raises(UserError) as error, lock(folder, **settings):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def write_record(folder: pathlib.Path, age_secs: float = 0.0, **changes) -> None:
    """The record of a process of another host, unless `changes` say otherwise."""
    folder.mkdir(exist_ok=True)
    fields = dataclasses.asdict(holders.describe(folder, has_kernel_lock=True))
    fields |= {"host": "rack7", "kernel": "another boot", **changes}
    path = folder / locks.RECORD
    path.write_text(json.dumps(fields))
    os.utime(path, (time.time() - age_secs,) * 2)


def test_a_second_writer_is_refused_with_the_name_of_the_first(start, tmp_path):
    first = start()
    assert said(first) == "held"
    told = refusal(tmp_path / "run")
    assert f"--workdir={tmp_path / 'run'} is being written by" in told
    assert f"process {first.pid} on " in told
    first.stdin.close()
    first.wait()
    with lock(tmp_path / "run") as taken:
        taken.check()
    assert not (tmp_path / "run").exists(), "a folder that was made is removed"


def test_a_writer_that_ends_in_time_is_waited_for(start):
    first = start()
    assert said(first) == "held"
    second = start(wait_secs=60.0)
    assert "waiting up to 60 s" in second.stderr.readline()
    first.stdin.close()
    assert said(second) == "held"


def test_a_killed_writer_is_replaced_at_once(start, tmp_path, caplog):
    first = start()
    assert said(first) == "held"
    first.kill()
    first.wait()
    with lock(tmp_path / "run") as taken:
        taken.check()
    assert f"taken over from process {first.pid} " in caplog.text


def test_a_killed_writer_that_nobody_has_waited_for_is_gone_too(start, tmp_path):
    first = start()
    assert said(first) == "held"
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    with lock(tmp_path / "run"):
        pass


def test_a_stopped_writer_is_alive(start, tmp_path):
    first = start()
    assert said(first) == "held"
    first.send_signal(signal.SIGSTOP)
    # However old its record is.
    time.sleep(0.1)
    os.utime(tmp_path / "run" / locks.RECORD, (0, 0))
    assert f"process {first.pid} " in refusal(tmp_path / "run")


@pytest.mark.parametrize("has_locks", [True, False])
def test_of_many_that_start_at_once_one_wins(tmp_path, start, has_locks):
    write_record(tmp_path / "run", age_secs=1000)
    words = [said(one) for one in [start(has_locks=has_locks) for _ in range(5)]]
    assert words.count("held") == 1, words
    assert sum("is being written by" in word for word in words) == 4, words


def test_a_writer_of_another_host_is_replaced_once_its_record_is_old(tmp_path, caplog):
    write_record(tmp_path / "run", age_secs=200)
    with lock(tmp_path / "run"):
        pass
    assert "on rack7" in caplog.text


def test_a_writer_of_another_host_with_a_fresh_record_is_not_replaced(tmp_path):
    folder = tmp_path / "run"
    write_record(folder, slurm_job="4711")

    def give_sign() -> None:
        os.utime(folder / locks.RECORD)

    times = {"stale_secs": 0.5, "beat_secs": 0.1}
    told = refusal(folder, check_stop=give_sign, **times)
    assert "of Slurm job 4711 on rack7" in told
    # Without signs of life it is replaced by one that waits.
    with lock(folder, **times):
        pass


def test_a_record_from_the_future_does_not_block_for_ever(tmp_path):
    write_record(tmp_path / "run", age_secs=-1e6)
    with lock(tmp_path / "run", stale_secs=0.5, beat_secs=0.1):
        pass


def test_another_process_with_the_number_of_the_writer_is_not_taken_for_it(tmp_path):
    here = holders.describe(tmp_path, has_kernel_lock=True)
    write_record(tmp_path / "run", kernel=here.kernel, started="1")
    with lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"pid": 1}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_record_blocks_no_longer_than_one_of_another_host(tmp_path, text):
    path = tmp_path / locks.RECORD
    path.write_bytes(text.encode(errors="surrogateescape"))
    os.utime(path, (0, 0))
    with lock(tmp_path) as taken:
        taken.check()
    path.write_bytes(text.encode(errors="surrogateescape"))
    times = {"stale_secs": 0.3, "beat_secs": 0.1}
    with lock(tmp_path, **times):
        pass


def test_a_record_with_a_field_of_another_type_is_damaged(tmp_path):
    for changes in ({"pid": "7"}, {"pid": -1}, {"host": 3}, {"more": 1}):
        write_record(tmp_path, **changes)
        assert holders.read(tmp_path / locks.RECORD) is holders.UNKNOWN


def test_a_writer_that_was_replaced_notices_and_leaves_the_folder_alone(tmp_path):
    with lock(tmp_path, beat_secs=0.05) as taken:
        taken.check()
        write_record(tmp_path)
        found = (tmp_path / locks.RECORD).read_bytes()
        time.sleep(0.3)
        with pytest.raises(UserError, match=r"was taken over by process .* on rack7"):
            taken.check()
    assert (tmp_path / locks.RECORD).read_bytes() == found
    assert (tmp_path / locks.LOCK).exists()


def test_a_writer_that_was_suspended_reads_the_record_before_it_writes(
    tmp_path, monkeypatch
):
    # No thread gives signs of life in time here, as after a suspension.
    with lock(tmp_path, beat_secs=1000.0) as taken:
        write_record(tmp_path)
        taken.check()  # its last sign of life is recent
        monkeypatch.setattr(locks, "_now", lambda: time.monotonic() + 1e9)
        with pytest.raises(UserError, match="taken over"):
            taken.check()


@pytest.mark.parametrize("text", [None, "", "no JSON"])
def test_a_record_that_was_removed_or_damaged_is_written_again(tmp_path, text):
    path = tmp_path / locks.RECORD
    with lock(tmp_path, beat_secs=0.05) as taken:
        before = path.read_text()
        path.unlink()
        if text is not None:
            path.write_text(text)
        time.sleep(0.3)
        assert path.read_text() == before
        taken.check()


def test_a_disk_that_sets_no_times_gets_signs_of_life_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    path = tmp_path / locks.RECORD
    monkeypatch.setattr(locks.os, "utime", refuse)
    with lock(tmp_path, beat_secs=0.05):
        before = path.stat().st_mtime_ns
        time.sleep(0.3)
        assert path.stat().st_mtime_ns > before
    # And a record that gives none is replaced after it was watched so long.
    monkeypatch.undo()
    write_record(tmp_path)
    monkeypatch.setattr(locks.os, "utime", refuse)
    with lock(tmp_path, stale_secs=0.5, beat_secs=0.1):
        pass


def test_a_file_system_without_locks_and_links_has_one_writer_too(
    tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(locks.os, "link", refuse)
    with lock(tmp_path / "run"):
        assert f"process {os.getpid()} " in refusal(tmp_path / "run")
    with lock(tmp_path / "run"):
        pass


def test_a_waiting_process_can_be_stopped(start, tmp_path):
    first = start()
    assert said(first) == "held"

    def stop() -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        lock(tmp_path / "run", wait_secs=60.0, check_stop=stop),
    ):
        pass
    assert {p.name for p in (tmp_path / "run").iterdir()} == {locks.LOCK, locks.RECORD}
