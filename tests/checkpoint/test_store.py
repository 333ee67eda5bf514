"""A state comes back whole onto any mesh, or the reader is told what is wrong."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glide_jax.checkpoint import store
from glide_jax.errors import UserError
from tests import fake_devices


def make_items(scale=1.0):
    params = {
        "conv": {"kernel": jnp.arange(6.0).reshape(2, 3) * scale},
        "norm": {"bias": jnp.ones(3, jnp.bfloat16) * scale},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {"params": params, "opt_state": optimizer.init(params)}


def abstract(items):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), items)


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two stored states of which tests only read."""
    folder = tmp_path_factory.mktemp("states")
    with store.CheckpointStore(folder, keep=2) as writer:
        for step in (10, 20, 30):
            writer.save(step, make_items(step), {"step": step, "digest": "ab"})
    return folder


def test_a_state_comes_back_bit_for_bit(folder):
    with store.CheckpointStore(folder) as reader:
        restored = reader.restore(30, abstract(make_items()))
        assert_trees_equal(restored, make_items(30))
        assert reader.restore_meta(30) == {"step": 30, "digest": "ab"}


def test_only_the_newest_states_are_kept(folder):
    with store.CheckpointStore(folder) as reader:
        assert reader.steps() == [20, 30]
        assert reader.latest_step() == 30


def test_one_item_can_be_read_alone_and_in_another_dtype(folder):
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), make_items()["params"]
    )
    with store.CheckpointStore(folder) as reader:
        restored = reader.restore(20, {"params": wanted})
        assert list(restored) == ["params"]
        expected = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16), make_items(20)["params"]
        )
        assert_trees_equal(restored["params"], expected)
        shapes = reader.tree_shapes(20, "params")
        assert shapes == {"conv/kernel": (2, 3), "norm/bias": (3,)}


def test_a_different_tree_names_the_first_path_and_both_shapes(folder):
    wanted = abstract(make_items())
    reshaped = {"params": {**wanted["params"]}}
    reshaped["params"]["conv"] = {"kernel": jax.ShapeDtypeStruct((2, 4), jnp.float32)}
    lacking = {"params": {"conv": wanted["params"]["conv"]}}
    with store.CheckpointStore(folder) as reader:
        rule = r"params/conv/kernel: .* has shape \(2, 3\), this model needs .*\(2, 4\)"
        with pytest.raises(UserError, match=rule):
            reader.restore(30, reshaped)
        rule = r"params/norm/bias: .* has shape \(3,\), this model needs nothing"
        with pytest.raises(UserError, match=rule):
            reader.restore(30, lacking)


def test_a_step_or_item_that_is_not_there_names_those_that_are(folder):
    with store.CheckpointStore(folder) as reader:
        with pytest.raises(UserError, match=r"no checkpoint of step 10 .*: 20, 30"):
            reader.restore(10, {})
        with pytest.raises(UserError, match="no ema_params; it has opt_state, params"):
            reader.restore(30, {"ema_params": {}})


def test_looking_into_a_missing_folder_does_not_make_it(tmp_path):
    reader = store.CheckpointStore(tmp_path / "typo")
    assert reader.steps() == []
    assert reader.latest_step() is None
    with pytest.raises(UserError, match="stored: none"):
        reader.restore_meta(1)
    reader.close()
    assert not (tmp_path / "typo").exists()


def test_a_stored_step_is_not_written_again_and_an_older_one_may_be(tmp_path):
    with store.CheckpointStore(tmp_path, keep=3) as writer:
        assert writer.save(20, make_items(1), {})
        assert not writer.save(20, make_items(2), {})
        assert writer.save(10, make_items(3), {})
        writer.wait()
        assert writer.steps() == [10, 20]
        restored = writer.restore(20, abstract(make_items()))
        assert_trees_equal(restored, make_items(1))


def test_prng_keys_are_refused(tmp_path):
    writer = store.CheckpointStore(tmp_path)
    with pytest.raises(TypeError, match="state/key is a PRNG key"):
        writer.save(1, {"state": {"key": jax.random.key(0)}}, {})


def test_a_step_without_its_commit_mark_does_not_count(folder, tmp_path):
    with store.CheckpointStore(tmp_path, keep=3) as writer:
        writer.save(1, make_items(), {})
        writer.save(2, make_items(), {})
    (tmp_path / "2" / "commit_success.txt").unlink()
    (tmp_path / "3").mkdir()
    with store.CheckpointStore(tmp_path, keep=3) as again:
        assert again.latest_step() == 1
        assert again.save(2, make_items(2), {})
        assert again.save(3, make_items(3), {})
        again.wait()
        assert again.steps() == [1, 2, 3]


def test_the_buffers_of_a_saved_state_may_be_donated_at_once(tmp_path):
    state = {"w": jnp.ones(2**18)}
    change = jax.jit(lambda s: {"w": s["w"] * 0 - 1}, donate_argnums=0)
    with store.CheckpointStore(tmp_path) as writer:
        writer.save(1, {"params": state}, {})
        jax.block_until_ready(change(state))
        writer.wait()
        restored = writer.restore(1, {"params": abstract({"w": jnp.ones(2**18)})})
    np.testing.assert_array_equal(restored["params"]["w"], 1.0)


FAILING_WRITE = """
import resource, signal, sys
import jax.numpy as jnp
from glide_jax.checkpoint import store

writer = store.CheckpointStore(sys.argv[1], keep=3)
writer.save(1, {"params": {"w": jnp.ones(8)}}, {})
writer.wait()
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, unlimited[1]))
import numpy as np
noise = jnp.asarray(np.random.RandomState(0).randn(2**20))
failed = []
for name, next_call in (
    ("wait", writer.wait),
    ("save", lambda: writer.save(9, {"params": {"w": jnp.ones(8)}}, {})),
):
    try:
        writer.save(2, {"params": {"w": noise}}, {})
        next_call()
    except Exception as error:
        failed.append(name)
    assert writer.steps() == [1], writer.steps()
assert failed == ["wait", "save"], failed
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
writer.save(2, {"params": {"w": noise}}, {})
writer.close()
assert writer.steps() == [1, 2]
"""


def test_a_write_that_fails_is_raised_by_the_next_call_and_leaves_no_state(tmp_path):
    # A limit on file sizes stands for a full disk.
    result = subprocess.run(
        [sys.executable, "-c", FAILING_WRITE, str(tmp_path)],
        cwd=fake_devices.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from glide_jax.checkpoint import store
from glide_jax.config import defaults
from glide_jax.parallel import mesh, sharding

values = {{"w": np.arange(64.0, dtype="float32").reshape(8, 8), "b": np.ones(3)}}
values["b"] = values["b"].astype("float32")
made = mesh.make_mesh(defaults.MeshConfig(data={data}, fsdp={fsdp}))
lies = sharding.shard_tree(values, made, min_shard_mb=0)
with store.CheckpointStore({folder!r}, keep=2) as states:
    if {write}:
        states.save(1, {{"params": jax.device_put(values, lies)}}, {{}})
    wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), values, lies)
    states.wait()
    params = states.restore(1, {{"params": wanted}})["params"]
assert params["w"].sharding == lies["w"], params["w"].sharding
for name in values:
    np.testing.assert_array_equal(np.asarray(params[name]), values[name])
"""


def test_a_state_of_eight_devices_is_restored_onto_other_meshes(tmp_path):
    for devices, sizes, write in (
        (8, {"data": 1, "fsdp": 8}, True),
        (8, {"data": 4, "fsdp": 2}, False),
    ):
        script = ON_A_MESH.format(folder=str(tmp_path), write=write, **sizes)
        fake_devices.run_with_devices(script, devices=devices)
    wanted = {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    wanted["b"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    with store.CheckpointStore(tmp_path) as reader:  # this process has one device
        params = reader.restore(1, {"params": wanted})["params"]
    np.testing.assert_array_equal(params["w"], np.arange(64).reshape(8, 8))


@pytest.mark.parametrize("keep_bytes", [0, 20])
def test_a_damaged_file_is_one_line_that_names_step_and_folder(
    folder, tmp_path, keep_bytes
):
    copy = shutil.copytree(folder, tmp_path / "states")
    files = [path for path in copy.rglob("*") if path.is_file()]
    refused = set()
    for path in files:
        if path.name == "commit_success.txt" or "20" in path.relative_to(copy).parts:
            continue
        content = path.read_bytes()
        path.write_bytes(content[:keep_bytes])
        with store.CheckpointStore(copy) as reader:
            try:
                reader.restore(30, abstract(make_items()))
                reader.restore_meta(30)
            except UserError as error:
                line = str(error)
                assert line.startswith(f"checkpoint step 30 in {copy} cannot be read")
                assert "\n" not in line
                refused.add(path.name)
        path.write_bytes(content)
    # Orbax writes more than it reads, but the arrays and their description it does.
    assert {"manifest.ocdbt", "_METADATA", "metadata"} <= refused
    assert len(refused) >= 5
