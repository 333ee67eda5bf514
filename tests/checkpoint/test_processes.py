"""Several processes write one checkpoint, and agree on which one they read."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

from glide_jax.checkpoint import manifest, store
from tests import fake_devices
from tests.checkpoint import states

SCRIPT = """
import logging, resource, signal, sys, time
import jax
index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
import jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from glide_jax.checkpoint import store
from glide_jax.config import defaults
from glide_jax.errors import NoCheckpointError, UserError
from glide_jax.parallel import device_mesh, digests
import pathlib

logging.basicConfig(
    level="WARNING", format="%(message)s", stream=sys.stdout, force=True)
logging.getLogger("absl").setLevel(logging.CRITICAL)
made = device_mesh.make_mesh(defaults.MeshConfig(data=2, fsdp=2))
cut, whole = (NamedSharding(made, spec) for spec in (P("fsdp"), P()))

def items(step, rows=8):
    values = np.random.default_rng(step).normal(size=(rows, 6)).astype("float32")
    place = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i])
    tree = {"w": place(values, cut), "b": place(values[:1], whole)}
    return {"params": tree}, {"params": {"w": values, "b": values[:1]}}

def check(restored, step):
    tree, values = restored.items, items(step)[1]
    assert restored.step == step, restored
    for name in ("w", "b"):
        for shard in tree["params"][name].addressable_shards:
            want = values["params"][name][shard.index]
            np.testing.assert_array_equal(np.asarray(shard.data), want)

wanted = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items(1)[0])
states = store.CheckpointStore(folder, defaults.CheckpointConfig(keep=3))
assert states.is_empty() and states.newest() is None
for step in (1, 2, 3, 4):
    assert states.save(step, items(step)[0], {"step": step})
states.wait()
assert states.steps() == [2, 3, 4], states.steps()  # all see the commit, and deletions
assert states.newest() == (4, {"step": 4})
check(states.restore_newest(wanted), 4)

# One process alone cannot write: all are told, at once, and go on.
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
if index == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limit[1]))
begin = time.monotonic()
assert states.save(5, items(5, rows=2**16)[0], {})
try:
    states.wait()
except UserError as error:
    assert "step 5" in str(error) and "(File too large)" in str(error), error
else:
    raise AssertionError
assert time.monotonic() - begin < 60
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
assert states.steps() == [2, 3, 4]
assert states.save(6, items(6)[0], {})
states.close()
assert states.steps() == [3, 4, 6], states.steps()

# A file that only one process hashes is damaged: all walk back.
if index == 0:
    (pathlib.Path(folder) / "6" / "meta.json").write_text("{}")
    for path in (pathlib.Path(folder) / "4").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 4
        path.write_bytes(content)
        break
    (pathlib.Path(folder) / "ready").touch()
while not (pathlib.Path(folder) / "ready").exists():
    time.sleep(0.01)
again = store.CheckpointStore(folder)
assert again.newest() == (3, {"step": 3})
check(again.restore_newest(wanted), 3)
print("done", index, flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_processes_write_fail_and_walk_back_together(tmp_path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "NPROC": "16",
        "PYTHONPATH": str(fake_devices.ROOT),
    }
    folder, port = tmp_path / "states", str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(index), port, str(folder)],
            env=environment,
            cwd=fake_devices.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        told = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for index, (out, err) in enumerate(told):
        assert f"done {index}" in out, f"{out}\n{err[-4000:]}"
    # One line for each failure, by the process that is the first.
    assert told[0][0].count("step 5 in") == 1
    assert told[1][0].count("step 5 in") == 0
    assert "checkpoint step 6 in" in told[0][0]

    # Another number of processes and devices reads what two wrote.
    found = manifest.read(folder / "3")
    assert any("ocdbt.process_1/" in name for name in found.files)
    wanted = {name: leaf["shape"] for name, leaf in found.leaves.items()}
    assert wanted == {"params/b": [1, 6], "params/w": [8, 6]}
    reader = store.CheckpointStore(pathlib.Path(folder))
    items = {"params": {"w": fake(8, 6), "b": fake(1, 6)}}
    assert reader.restore_newest(items).step == 3


def fake(*shape):
    import jax

    return states.abstract(jax.ShapeDtypeStruct(shape, "float32"))
