"""A process killed while it saves leaves what it had saved before, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

from glide_jax.checkpoint import store, verify
from glide_jax.config.defaults import CheckpointConfig
from tests import fake_devices
from tests.checkpoint import states

# Saves step after step, and tells of each that is committed.
SCRIPT = """
import sys
from glide_jax.checkpoint import store
from glide_jax.config.defaults import CheckpointConfig
from tests.checkpoint import states

with store.CheckpointStore(sys.argv[1], CheckpointConfig(keep=2)) as writer:
    for step in range(int(sys.argv[2]), 10**6):
        writer.save(step, states.make_items(step), {"step": step})
        writer.wait()
        print(step, flush=True)
"""
WANTED = states.abstract(states.make_items())


def test_a_process_killed_in_a_save_loses_that_save_at_most(tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)  # for whoever has to see this fail again
    rng = random.Random(seed)
    environment = {**os.environ, "PYTHONPATH": str(fake_devices.ROOT)}
    folder, newest = tmp_path / "checkpoints", 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(newest + 1)],
            env=environment,
            cwd=fake_devices.ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.communicate()[0].split())])
        reader = store.CheckpointStore(folder)
        restored = reader.restore_newest(WANTED)
        # What was told of is there; one more may be, killed before it could be told.
        assert restored.step in (told, told + 1)
        assert restored.meta == {"step": restored.step}
        expected = states.make_items(restored.step)
        assert states.is_equal(restored.items, expected)
        assert verify.check(tmp_path).bad_steps == []
        newest = restored.step
    states_kept = CheckpointConfig(keep=2)
    with store.CheckpointStore(folder, states_kept) as writer:
        assert writer.save(newest + 1, states.make_items(newest + 1), {})
    names = {path.name for path in folder.iterdir()}
    assert names == {str(newest), str(newest + 1)}, "what was left is gone"
