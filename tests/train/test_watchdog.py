"""The watchdog ends a run that stalls or does not stop within its grace period."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

from glide_jax.runtime import lifecycle
from tests import fake_devices

# Shorter than the child hangs for, so that a watchdog that does nothing fails the test.
TIMEOUT_SECS = 30
# A watched loop, in a child process because the watchdog ends it.
SCRIPT = """
    import hashlib, pathlib, time
    from glide_jax.runtime import lifecycle
    from glide_jax.config import defaults
    from glide_jax.train import recovery

    config = defaults.TrainConfig(stall_secs={stall_secs}, grace_secs={grace_secs})
    workdir = pathlib.Path({workdir!r})
    stop = lifecycle.StopRequest()
    with stop, recovery.Watchdog(config, workdir, stop) as dog:
        print("ready", flush=True)
        for _ in range({beats}):
            time.sleep(0.2)
            dog.beat()
        if {hangs}:
            time.sleep(60)
"""


LONG_CALL = 'hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2**31 - 1)'


@contextlib.contextmanager
def started(workdir: pathlib.Path, **how) -> Iterator[subprocess.Popen]:
    """The script in a child process, which is killed if the test fails."""
    script = textwrap.dedent(
        SCRIPT.format(**{"workdir": str(workdir), "grace_secs": 1.0} | how)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(fake_devices.ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_stalled_loop_is_ended_with_its_stacks(tmp_path):
    with started(tmp_path, stall_secs=1.0, beats=3, hangs=True) as process:
        _, errors = process.communicate(timeout=TIMEOUT_SECS)
    assert process.returncode == lifecycle.ExitCode.STALLED
    assert "train.stall_secs=1" in errors
    stacks = (tmp_path / "stacks" / "process_0.txt").read_text()
    assert 'File "<string>", line' in stacks
    assert "recovery.py" in stacks


def test_a_loop_that_makes_progress_is_not_ended(tmp_path):
    with started(tmp_path, stall_secs=3.0, beats=20, hangs=False) as process:
        process.communicate(timeout=TIMEOUT_SECS)
    assert process.returncode == 0
    assert not (tmp_path / "stacks").exists()


def test_a_blocked_disk_does_not_delay_the_end(tmp_path):
    (tmp_path / "stacks").mkdir()
    # Opening a pipe that nobody reads blocks.
    os.mkfifo(tmp_path / "stacks" / "process_0.txt")
    with started(tmp_path, stall_secs=1.0, beats=1, hangs=True) as process:
        process.communicate(timeout=TIMEOUT_SECS)
    assert process.returncode == lifecycle.ExitCode.STALLED


def test_a_loop_that_ignores_a_signal_is_ended_after_its_grace_period(tmp_path):
    with started(tmp_path, stall_secs=0.0, beats=0, hangs=True) as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_SECS)
    assert process.returncode == lifecycle.ExitCode.TERMINATED
    assert "train.grace_secs=1" in errors
    assert (tmp_path / "stacks" / "process_0.txt").exists()


def test_ctrl_c_is_reported_and_a_second_one_ends_a_call_that_does_not_return(tmp_path):
    # Like a compilation, the hash stays outside Python, which delays its handlers.
    how = {"stall_secs": 0.0, "grace_secs": 600.0, "beats": 1, "hangs": LONG_CALL}
    with started(tmp_path, **how) as process:
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        assert "SIGINT received" in line
        assert "press Ctrl-C again" in line
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_SECS)
    assert process.returncode == lifecycle.ExitCode.INTERRUPTED
