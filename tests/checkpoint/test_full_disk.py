"""A full disk, and a folder that may not be written, cost a step and no more."""

from __future__ import annotations

import itertools
import os
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.checkpoint import store
from glide_jax.errors import UserError
from tests.checkpoint import states, test_local_tier


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes rights that this process lacks")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def noise(megabytes: int) -> dict:
    rng = np.random.default_rng(0)
    return {"params": {"w": jnp.asarray(rng.normal(size=2**18 * megabytes), "float32")}}


def test_a_full_disk_is_a_one_line_error_and_the_previous_step_stays(
    small_disk, caplog
):
    writer = store.CheckpointStore(small_disk)
    assert writer.save(1, states.make_items(1), {})
    writer.wait()
    assert writer.save(2, noise(4), {})
    with pytest.raises(UserError, match="No space left on device") as error:
        writer.wait()
    assert "\n" not in str(error.value)
    assert "checkpoint step 2 in" in str(error.value)
    assert writer.poll() == str(error.value) == caplog.messages[-1]
    assert {path.name for path in small_disk.iterdir()} == {"1"}, "its room is free"
    # Full to the last byte: not even a folder can be made, or a manifest written.
    (small_disk / "filler").write_bytes(bytes(2**20))
    with (
        (small_disk / "more").open("wb", buffering=0) as more,
        pytest.raises(OSError, match="No space"),
    ):
        more.writelines(itertools.repeat(bytes(512)))
    if writer.save(3, states.make_items(3), {}):
        with pytest.raises(UserError, match="No space left on device"):
            writer.wait()
    assert writer.steps() == [1]
    restored = writer.restore_newest(states.abstract(states.make_items()))
    assert states.is_equal(restored.items, states.make_items(1))
    for name in ("filler", "more"):
        (small_disk / name).unlink()
    assert writer.save(3, states.make_items(3), {})
    writer.close()
    assert writer.steps() == [1, 3]


def test_a_full_local_disk_costs_the_steps_meanwhile(small_disk, caplog):
    start = test_local_tier.Start(small_disk).save(1)
    with (
        (small_disk / "filler").open("wb", buffering=0) as filler,
        pytest.raises(OSError, match="No space"),
    ):
        filler.writelines(itertools.repeat(bytes(512)))
    start.save(2, 3)
    told = "local checkpoint step 2 was not written: No space left on device"
    assert caplog.messages == [f"{told}; training continues"]
    assert start.steps() == [1]
    (small_disk / "filler").unlink()
    start.save(4)
    assert "step 4 was not written: no longer so, after 2 in a row" in caplog.text
    test_local_tier.check(test_local_tier.Start(small_disk).restored, 4)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_save(tmp_path):
    # Below a file nobody may make a folder, whatever their rights.
    (tmp_path / "file").write_text("")
    writer = store.CheckpointStore(tmp_path / "file" / "checkpoints")
    assert not writer.save(1, states.make_items(1), {})
    failure = writer.poll()
    assert "checkpoint step 1 in" in failure
    assert "(Not a directory)" in failure
    assert writer.poll() == ""
    with pytest.raises(UserError, match="Not a directory"):
        writer.close()
    writer.close()
