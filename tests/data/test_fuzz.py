"""No reader hangs, crashes or fills the memory, whatever the bytes."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys

import pytest

from tests import fake_devices
from tests.data import fuzzing

COUNT = 4000  # inputs of a slow test; every run of the suite draws others
# Damage that leaves nothing to read, or that is never met, tests nothing. Hashes in
# ArrayRecord find nearly all of it, and a tokenizer's file bears none.
LEAST_GOOD = {"array_record": 0.001, "tokenizer_file": 0.01}


def fuzz(names: str, count: int, limit_secs: int) -> dict[str, dict[str, int]]:
    """Outcomes by reader, of inputs that no run has seen before."""
    seed = secrets.randbelow(1 << 32)
    command = [sys.executable, "-m", "tests.data.fuzzing", names, count, seed, 0]
    done = subprocess.run(
        [*map(str, command)],
        cwd=fake_devices.ROOT,
        capture_output=True,
        text=True,
        timeout=limit_secs,
    )
    last = done.stderr[-3000:]
    # -14: an input took more than INPUT_SECS; -11: a crash.
    assert done.returncode == 0, f"{done.returncode} at the last of: {last}"
    outcomes = json.loads(done.stdout)
    print(outcomes, "seed", seed)
    return outcomes


def test_some_hundred_damaged_inputs_are_read_or_refused():
    for outcomes in fuzz(",".join(fuzzing.READERS), 150, 300).values():
        assert outcomes.pop("grown_mb") < fuzzing.MEMORY_MB
        assert sum(outcomes.values()) == 150


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzzing.READERS)
def test_thousands_of_damaged_inputs_are_read_or_refused(name):
    outcomes = fuzz(name, COUNT, 900)[name]
    assert outcomes.pop("grown_mb") < fuzzing.MEMORY_MB
    assert sum(outcomes.values()) == COUNT
    assert LEAST_GOOD.get(name, 0.05) < outcomes["good"] / COUNT < 1


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        ("all(True for _ in iter(int, 1))", -signal.SIGALRM),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("bytearray(4 << 30)", 1),
    ],
    ids=["hang", "crash", "memory"],
)
def test_the_fuzz_sees_each_way_to_fail(broken, status):
    program = f"""
import os, signal
from tests.data import fuzzing

fuzzing.limit_memory()
fuzzing.INPUT_SECS = 1
fuzzing.READERS["x"] = lambda folder: lambda rng: {broken}
fuzzing.run("x", 5, 0, 3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=fake_devices.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert "x 3 of seed 0" in done.stderr
    assert "x 4 of seed 0" not in done.stderr
