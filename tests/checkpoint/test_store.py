"""A state is restored onto any mesh, or the error names what is wrong."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glide_jax import errors
from glide_jax.checkpoint import async_save, folders, kv_exchange, manifest, store
from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.train import optimizer
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
    policy = defaults.CheckpointConfig(keep=2)
    with store.CheckpointStore(folder, policy) as writer:
        for step in (10, 20, 30):
            writer.save(step, make_items(step), {"step": step, "digest": "ab"})
    return folder


def test_a_state_comes_back_bit_for_bit(folder):
    with store.CheckpointStore(folder) as reader:
        restored = reader.restore(30, abstract(make_items()))
        assert_trees_equal(restored, make_items(30))
        assert reader.newest() == (30, {"step": 30, "digest": "ab"})


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


@pytest.mark.parametrize("stored", [(0.0, 0.0), (1.0, 0.1)], ids=["plain", "both"])
@pytest.mark.parametrize("wanted", [(0.0, 0.0), (1.0, 0.1)], ids=["plain", "both"])
@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_parts_of_an_optimizer_that_hold_no_arrays_may_come_and_go(
    tmp_path, name, stored, wanted
):
    params = {"conv": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}

    def init(grad_clip_norm, weight_decay):
        config = defaults.OptimConfig(
            name=name, grad_clip_norm=grad_clip_norm, weight_decay=weight_decay
        )
        return optimizer.make_optimizer(config).init(params)

    def numbered(state):
        leaves, treedef = jax.tree.flatten(state)
        return treedef.unflatten([x + i for i, x in enumerate(leaves)])

    with store.CheckpointStore(tmp_path) as states:
        states.save(1, {"opt_state": numbered(init(*stored))}, {})
        states.wait()
        expected = numbered(init(*wanted))
        restored = states.restore_newest(abstract({"opt_state": expected}))
        assert_trees_equal(restored.items["opt_state"], expected)


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
        reader.restore(1, {})
    reader.close()
    assert not (tmp_path / "typo").exists()


class SecondOfTwo(kv_exchange.KvExchange):
    """The peers as the second of two processes hears them; the first lists a and b."""

    index, count = 1, 2

    def __init__(self):
        facts = {"bytes": 0, "sha256": ""}
        self.words = iter(['["a", "b"]', json.dumps({"a": facts})])

    def exchange(self, word):
        return [next(self.words), word]

    def agree(self, reason):
        return reason


@pytest.mark.parametrize("seen", [["a", "b"], ["a"], ["a", "b", "c"]])
def test_a_manifest_lists_what_the_first_process_sees(tmp_path, seen):
    write = async_save.AsyncSave(
        tmp_path,
        SecondOfTwo(),
        1,
        meta={},
        metrics={},
        policy=None,
        damaged=frozenset(),
        check_writer=lambda: None,
    )
    folder = folders.start(tmp_path, 1)
    for name in seen:
        (folder / name).write_text("")
    reason, files = write._hash()
    if "b" in seen:
        assert (reason, set(files)) == ("", {"a", "b"})
    else:
        assert reason == "No such file or directory"


def test_a_stored_step_is_not_written_again(tmp_path):
    with store.CheckpointStore(tmp_path) as writer:
        assert writer.save(20, make_items(1), {})
        assert not writer.save(20, make_items(2), {})
        writer.wait()
        restored = writer.restore(20, abstract(make_items()))
        assert_trees_equal(restored, make_items(1))


def test_a_save_deletes_the_steps_of_a_future_that_was_given_up(tmp_path):
    with store.CheckpointStore(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.save(step, make_items(step), {})
        writer.discard_after(20)
        assert writer.steps() == [10, 20]
        assert writer.save(30, make_items(3), {})
    with store.CheckpointStore(tmp_path) as again:
        # As after walking back past a 30 and a 20 that are damaged.
        assert again.save(15, make_items(15), {})
        again.wait()
        assert again.steps() == [10, 15]
        assert again.save(20, make_items(7), {})
        again.wait()
        assert_trees_equal(again.restore(20, abstract(make_items())), make_items(7))


def test_prng_keys_are_refused(tmp_path):
    writer = store.CheckpointStore(tmp_path)
    with pytest.raises(TypeError, match="state/key is a PRNG key"):
        writer.save(1, {"state": {"key": jax.random.key(0)}}, {})


def test_what_a_killed_write_or_deletion_leaves_goes_with_the_next_save(tmp_path):
    with store.CheckpointStore(tmp_path) as writer:
        writer.save(1, make_items(), {})
    for left in ("2.unfinished", "0.deleted"):
        shutil.copytree(tmp_path / "1", tmp_path / left)
    with store.CheckpointStore(tmp_path) as again:
        assert again.newest() == (1, {})
        assert (tmp_path / "2.unfinished").exists(), "a reader removes nothing"
        assert again.save(3, make_items(3), {})
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}


def test_an_unfinished_first_write_is_no_checkpoint_and_a_start_is_fresh(tmp_path):
    (tmp_path / "1.unfinished").mkdir()
    with store.CheckpointStore(tmp_path) as reader:
        assert reader.is_empty()
        assert reader.newest() is None
        assert reader.restore_newest(abstract(make_items())) is None


def test_a_step_without_its_manifest_is_none_but_not_a_fresh_start_either(tmp_path):
    (tmp_path / "3").mkdir()
    reader = store.CheckpointStore(tmp_path)
    assert not reader.is_empty()
    assert reader.steps() == []
    with pytest.raises(errors.NoCheckpointError, match="none is valid"):
        reader.restore_newest(abstract(make_items()))
    with pytest.raises(errors.NoCheckpointError):
        reader.newest()


def test_the_newest_good_state_is_restored_and_the_others_are_named(
    folder, tmp_path, caplog
):
    copy = shutil.copytree(folder, tmp_path / "states")
    (copy / "30" / "params" / "_METADATA").write_text("{}")
    (copy / "30" / "opt_state" / "manifest.ocdbt").unlink()
    reader = store.CheckpointStore(copy)
    restored = reader.restore_newest(abstract(make_items()))
    assert restored.step == 20
    assert restored.meta == {"step": 20, "digest": "ab"}
    assert_trees_equal(restored.items, make_items(20))
    line = caplog.messages[-1]
    assert line.startswith(f"checkpoint step 30 in {copy} is skipped: ")
    assert "opt_state/manifest.ocdbt is missing; params/_METADATA has 2 bytes" in line
    # What is wrong with one item is nothing to those who want another.
    (copy / "20" / "params" / "_METADATA").write_text("{}")
    opt_state = {"opt_state": abstract(make_items())["opt_state"]}
    assert store.CheckpointStore(copy).restore_newest(opt_state).step == 20


def test_numbers_that_are_not_those_saved_are_refused_though_every_file_is_right(
    folder, tmp_path
):
    copy = shutil.copytree(folder, tmp_path / "states")
    found = manifest.read(copy / "30")
    leaves = {**found.leaves}
    leaf = leaves["params/conv/kernel"]
    leaves["params/conv/kernel"] = {**leaf, "digest": "0" * 16}
    manifest.write(copy / "30", dataclasses.replace(found, leaves=leaves))
    reader = store.CheckpointStore(copy)
    with pytest.raises(UserError, match="params/conv/kernel differs"):
        reader.restore(30, abstract(make_items()))
    assert reader.restore_newest(abstract(make_items())).step == 20


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
import resource, signal, sys, time
import jax.numpy as jnp
import numpy as np
from glide_jax.checkpoint import store
from glide_jax.errors import UserError

writer = store.CheckpointStore(sys.argv[1])
writer.save(1, {"params": {"w": jnp.ones(8)}}, {})
writer.wait()
assert writer.poll() == ""
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, unlimited[1]))
noise = {"params": {"w": jnp.asarray(np.random.RandomState(0).randn(2**20))}}
assert writer.save(2, noise, {})
while not (failure := writer.poll()):
    time.sleep(0.01)
assert "checkpoint step 2 in " in failure and "(File too large)" in failure, failure
assert "\\n" not in failure
assert writer.poll() == ""
assert writer.steps() == [1], writer.steps()
try:
    writer.wait()
except UserError as error:
    assert str(error) == failure
else:
    raise AssertionError("wait() told nothing")
assert writer.save(3, noise, {})
try:
    writer.close()
except UserError as error:
    assert "checkpoint step 3 in " in str(error)
else:
    raise AssertionError("close() told nothing")
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
# A failure costs its step alone: the next save writes without being asked twice.
assert writer.save(3, noise, {})
writer.close()
assert writer.steps() == [1, 3]
"""


def test_a_failed_write_is_reported_at_once_and_leaves_no_state(tmp_path):
    # A limit on file sizes stands for a full disk; a real one is in test_full_disk.py.
    result = subprocess.run(
        [sys.executable, "-c", FAILING_WRITE, str(tmp_path)],
        cwd=fake_devices.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}


ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from glide_jax.checkpoint import store
from glide_jax.config import defaults
from glide_jax.parallel import device_mesh, sharding

values = {{"w": np.arange(64.0, dtype="float32").reshape(8, 8), "b": np.ones(3)}}
values["b"] = values["b"].astype("float32")
made = device_mesh.make_mesh(defaults.MeshConfig(data={data}, fsdp={fsdp}))
lies = sharding.shard_tree(values, made, min_shard_mb=0)
with store.CheckpointStore({folder!r}) as states:
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


def test_a_damaged_state_takes_no_good_ones_place(tmp_path):
    policy = defaults.CheckpointConfig(keep=2)
    with store.CheckpointStore(tmp_path, policy) as first:
        for step in (1, 2):
            first.save(step, make_items(step), {})
    (tmp_path / "2" / "manifest.json").write_text("{}")
    with store.CheckpointStore(tmp_path, policy) as second:
        assert second.restore_newest(abstract(make_items())).step == 1
        second.save(3, make_items(3), {})
        second.wait()
        assert second.steps() == [1, 3]
        assert not (tmp_path / "2").exists()
