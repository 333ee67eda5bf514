"""A checkpoint of the first version of the format restores bit for bit in this one."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from glide_jax.checkpoint import manifest, store, verify
from glide_jax.errors import UserError
from tests.checkpoint import make_golden, states


def test_the_golden_checkpoint_restores_bit_for_bit():
    expected = make_golden.make_items()
    reader = store.CheckpointStore(make_golden.FOLDER)
    assert reader.steps() == [make_golden.STEP]
    assert reader.newest() == (make_golden.STEP, make_golden.META)
    restored = reader.restore_newest(states.abstract(expected))
    assert restored.step == make_golden.STEP
    assert restored.meta == make_golden.META
    assert states.is_equal(restored.items, expected)
    found = manifest.read(make_golden.FOLDER / str(make_golden.STEP))
    assert found.metrics == make_golden.METRICS
    assert found.format == 1


def test_the_golden_checkpoint_is_small():
    files = [path for path in make_golden.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000


def test_a_newer_format_is_refused_and_nothing_older_is_read(tmp_path):
    for step in (7, 8):
        shutil.copytree(make_golden.FOLDER / "7", tmp_path / str(step))
    found = manifest.read(tmp_path / "8")
    newer = dataclasses.replace(found, step=8, format=manifest.FORMAT + 1)
    manifest.write(tmp_path / "8", newer)
    reader = store.CheckpointStore(tmp_path)
    for read in (reader.steps, reader.newest, lambda: verify.check(tmp_path / "8")):
        with pytest.raises(UserError, match=f"{manifest.FORMAT + 1}.*newer") as error:
            read()
        assert "\n" not in str(error.value)
