"""Bad records of several processes are counted once each, and survive a resume."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tests import fake_devices

# Two processes draw records of one source; they share some of the bad ones.
SCRIPT = """
import sys
import jax
index, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
from glide_jax.data import bad_records, schema
from glide_jax.train import run_log

FAR = (1 << 40) + 1  # more than 32 bits
part = (index, 2)

def bad(record, kind):
    return bad_records.bad_at(0, record, schema.BadRecordError(kind, str(record)))

def counter(start):
    return bad_records.FaultCounter(1.0, 1 << 41, lambda _: None, start)

mine = counter(None)
mine.count(3, [])
assert run_log.total(mine, part) == {"seen": 6, "records": {}}
mine.count(0, [bad(5, "empty caption")])
if index == 1:
    mine.count(1, [bad(5, "empty caption"), bad(FAR, "vanished shard")])
want = {"seen": 11, "records": {"empty caption": [5], "vanished shard": [FAR]}}
assert run_log.total(mine, part) == want, run_log.total(mine, part)

resumed = counter(want if index == 0 else {})
assert run_log.total(resumed, part) == want
resumed.count(0, [bad(5, "empty caption")])
want["seen"] += 2
assert run_log.total(resumed, part) == want
# Processes that read the same rows count the same draws.
assert run_log.total(mine, (0, 1))["seen"] == 4
print("done", flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_count_a_record_that_both_met_once():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "NPROC": "8",
        "PYTHONPATH": str(fake_devices.ROOT),
    }
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(index), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        told = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, err in told:
        assert out.endswith("done\n"), err[-3000:]
