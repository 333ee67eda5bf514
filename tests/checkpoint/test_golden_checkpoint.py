"""A checkpoint of the first version of the format restores bit for bit in this one."""

from __future__ import annotations

from glide_jax.checkpoint import manifest, store
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


def test_the_golden_checkpoint_is_small():
    files = [path for path in make_golden.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
