"""A checkpoint step is read by Orbax alone, without arguments and this package."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from glide_jax.checkpoint import item_files, store, verify
from tests import fake_devices
from tests.checkpoint import make_golden

# Prints dtype and bytes of each array by its path.
READ = """
import json, sys
import jax, numpy as np
import orbax.checkpoint as ocp

folder, step = sys.argv[1], int(sys.argv[2])
manager = ocp.CheckpointManager(folder)
assert manager.latest_step() == step
leaves = {
    name + "/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for name, item in manager.restore(step).items()
    for path, leaf in jax.tree_util.tree_leaves_with_path(item)
}
assert not [name for name in sys.modules if name.startswith("glide_jax")]
print(json.dumps(
    {path: [str(x.dtype), np.asarray(x).tobytes().hex()] for path, x in leaves.items()}
))
"""
WRITE_ON_FOUR = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from glide_jax.checkpoint import store
from glide_jax.config import defaults
from glide_jax.parallel import device_mesh

made = device_mesh.make_mesh(defaults.MeshConfig(data=2, fsdp=2))
value = jnp.arange(32, dtype=jnp.float32).reshape(8, 4)
value = jax.device_put(value, NamedSharding(made, P("fsdp")))
with store.CheckpointStore({folder!r}) as writer:
    writer.save(5, {{"params": {{"w": value}}}}, {{}})
"""


def read_with_orbax(folder: pathlib.Path, step: int, devices: int = 1) -> dict:
    """Arrays by path, as a process that imports only Orbax restores them."""
    found = subprocess.run(
        [sys.executable, "-c", READ, str(folder), str(step)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return json.loads(found.stdout.splitlines()[-1])


def as_read(items: dict) -> dict:
    return {
        path: [str(leaf.dtype), np.asarray(leaf).tobytes().hex()]
        for path, leaf in item_files.leaves_by_path(items).items()
    }


def test_every_kind_of_item_is_restored_bit_for_bit(tmp_path):
    expected = make_golden.make_items()
    with store.CheckpointStore(tmp_path) as writer:
        writer.save(7, expected, {"step": 7})
    assert read_with_orbax(tmp_path, 7) == as_read(expected)
    # Orbax has left nothing behind that would count as damage.
    report = verify.check(tmp_path / "7")
    assert (report.damaged, report.surplus) == ({}, [])


def test_what_four_devices_wrote_is_restored_on_any_number(tmp_path):
    fake_devices.run_with_devices(WRITE_ON_FOUR.format(folder=str(tmp_path)), devices=4)
    value = np.arange(32, dtype=np.float32).reshape(8, 4)
    for devices in (1, 2):
        found = read_with_orbax(tmp_path, 5, devices)
        assert found == as_read({"params": {"w": jax.numpy.asarray(value)}})


def test_no_item_may_take_the_place_of_orbaxs_own_file(tmp_path):
    name = item_files.ORBAX_METADATA
    with (
        store.CheckpointStore(tmp_path) as writer,
        pytest.raises(ValueError, match=name),
    ):
        writer.save(1, {name: {"a": np.ones(2)}}, {})
