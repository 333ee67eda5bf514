"""A run that stands still, or does not end in time, is ended by itself."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

from glide_jax.runtime import lifecycle
from tests import fake_devices

# A loop around what is watched, in a process of its own: it will be ended.
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


def start(workdir: pathlib.Path, **how) -> subprocess.Popen:
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
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_loop_that_stands_still_is_ended_and_tells_where(tmp_path):
    process = start(tmp_path, stall_secs=1.0, beats=3, hangs=True)
    _, told = process.communicate(timeout=30)
    assert process.returncode == lifecycle.ExitCode.STALLED
    assert "train.stall_secs=1" in told
    stacks = (tmp_path / "stacks" / "process_0.txt").read_text()
    assert 'File "<string>", line' in stacks
    assert "recovery.py" in stacks


def test_a_loop_that_moves_is_left_alone(tmp_path):
    process = start(tmp_path, stall_secs=1.0, beats=10, hangs=False)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not (tmp_path / "stacks").exists()


def test_a_disk_that_does_not_answer_holds_up_no_end(tmp_path):
    (tmp_path / "stacks").mkdir()
    # To open a pipe that nobody reads takes for ever.
    os.mkfifo(tmp_path / "stacks" / "process_0.txt")
    process = start(tmp_path, stall_secs=1.0, beats=1, hangs=True)
    process.communicate(timeout=30)
    assert process.returncode == lifecycle.ExitCode.STALLED


def test_a_loop_that_does_not_heed_a_signal_is_ended_after_its_grace(tmp_path):
    process = start(tmp_path, stall_secs=0.0, beats=0, hangs=True)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == lifecycle.ExitCode.TERMINATED
    assert "train.grace_secs=1" in told
    assert (tmp_path / "stacks" / "process_0.txt").exists()


def test_ctrl_c_is_reported_and_a_second_one_ends_a_call_that_does_not_return(tmp_path):
    # Like a compilation, the hash stays outside Python, which delays its handlers.
    process = start(
        tmp_path, stall_secs=0.0, grace_secs=600.0, beats=1, hangs=LONG_CALL
    )
    process.send_signal(signal.SIGINT)
    line = process.stderr.readline()
    assert "SIGINT received" in line
    assert "press Ctrl-C again" in line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == lifecycle.ExitCode.INTERRUPTED
