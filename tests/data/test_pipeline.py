"""A batch is a function of (seed, step), whoever makes it."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.data import pipeline, schema, sources, transforms
from tests.data import streams

SIZES = {"image_px": 16, "text_context": 12, "global_batch_size": 8}
FULL = SIZES | {
    "low_res_px": 4,
    "low_res_corruption": "noise",
    "low_res_corruption_strength": 0.1,
    "inpaint": True,
    "flip_prob": 0.5,
}


@pytest.fixture(scope="module")
def world():
    return sources.open_source("shapes:quickstart")


def _take(batches, count: int) -> list[schema.Batch]:
    return list(itertools.islice(batches, count))


def _assert_equal(left: schema.Batch, right: schema.Batch) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)


def test_a_batch_keeps_the_contract(world, tokenizer):
    (batch,) = _take(streams.make_batches(world, tokenizer, seed=0, **FULL), 1)
    shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert shapes == {
        "image": ("float32", (8, 16, 16, 3)),
        "tokens": ("int32", (8, 12)),
        "text_mask": ("bool", (8, 12)),
        "example_index": ("int32", (8,)),
        "low_res": ("float32", (8, 4, 4, 3)),
        "inpaint_mask": ("float32", (8, 16, 16, 1)),
    }
    for name in ("image", "low_res"):
        assert batch[name].min() >= -1.0
        assert batch[name].max() <= 1.0
    assert set(np.unique(batch["inpaint_mask"])) <= {0.0, 1.0}
    assert batch["text_mask"][:, 0].all()


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_threads_do_not_change_the_batches(world, tokenizer, num_threads):
    want = _take(streams.make_batches(world, tokenizer, seed=1, **FULL), 3)
    made = streams.make_batches(
        world, tokenizer, seed=1, num_threads=num_threads, prefetch_batches=2, **FULL
    )
    for left, right in zip(want, made, strict=False):
        _assert_equal(left, right)


@pytest.mark.parametrize("process_count", [2, 4, 8])
def test_processes_share_out_the_rows_of_one_global_batch(
    world, tokenizer, process_count
):
    want = _take(streams.make_batches(world, tokenizer, seed=1, **FULL), 2)
    parts = [
        streams.make_batches(
            world,
            tokenizer,
            seed=1,
            process_index=index,
            process_count=process_count,
            **FULL,
        )
        for index in range(process_count)
    ]
    for batch in want:
        rows = [next(part) for part in parts]
        whole = {name: np.concatenate([row[name] for row in rows]) for name in batch}
        _assert_equal(batch, whole)


def test_a_stream_started_at_a_step_equals_the_stream_never_stopped(world, tokenizer):
    whole = _take(streams.make_batches(world, tokenizer, seed=2, **FULL), 5)
    later = streams.make_batches(world, tokenizer, seed=2, start_step=3, **FULL)
    for left, right in zip(whole[3:], later, strict=False):
        _assert_equal(left, right)


def test_example_index_counts_through_steps_and_wraps_at_31_bits(world, tokenizer):
    first = 1 << 28
    batches = streams.make_batches(
        world, tokenizer, seed=0, start_step=first - 1, **SIZES
    )
    before, after = _take(batches, 2)
    np.testing.assert_array_equal(before["example_index"], 2**31 - 8 + np.arange(8))
    np.testing.assert_array_equal(after["example_index"], np.arange(8))


def test_seeds_differ(world, tokenizer):
    one, two = (
        next(streams.make_batches(world, tokenizer, seed=seed, **SIZES))
        for seed in (0, 1)
    )
    assert not np.array_equal(one["image"], two["image"])


def test_low_res_is_the_block_mean_of_the_picture(world, tokenizer):
    sizes = SIZES | {"low_res_px": 8}
    batch = next(streams.make_batches(world, tokenizer, seed=0, **sizes))
    want = batch["image"].reshape(8, 8, 2, 8, 2, 3).mean((2, 4))
    # Means of four float32 in [-1, 1] in another order of summing.
    np.testing.assert_allclose(batch["low_res"], want, atol=1e-6)


def test_a_flip_mirrors_the_picture_and_nothing_else(world, tokenizer):
    never = next(streams.make_batches(world, tokenizer, seed=0, **SIZES))
    sizes = SIZES | {"flip_prob": 1.0}
    always = next(streams.make_batches(world, tokenizer, seed=0, **sizes))
    np.testing.assert_array_equal(always["image"], never["image"][:, :, ::-1])
    np.testing.assert_array_equal(always["tokens"], never["tokens"])


def test_masks_of_the_cascade_have_the_grain_of_its_base(world, tokenizer):
    sizes = SIZES | {"low_res_px": 4, "inpaint": True}
    batch = next(streams.make_batches(world, tokenizer, seed=0, **sizes))
    coarse = transforms.area_downsample(batch["inpaint_mask"], 4)
    assert set(np.unique(coarse)) <= {0.0, 1.0}


def test_a_fixed_batch_holds_the_records_asked_for(world, tokenizer):
    batch = pipeline.fixed_batch(
        world, tokenizer, pipeline.RowSettings(16, 12), [5, 2, 5]
    )
    np.testing.assert_array_equal(batch["image"][0], batch["image"][2])
    small = world.at_px(16)
    for row, index in enumerate((5, 2, 5)):
        want = transforms.load_image(small[index], 16)
        np.testing.assert_array_equal(batch["image"][row], want)
        tokens, mask = tokenizer.encode_batch([small[index].caption], 12)
        np.testing.assert_array_equal(batch["tokens"][row], tokens[0])
        np.testing.assert_array_equal(batch["text_mask"][row], mask[0])


def test_a_mixture_batches_like_one_source(tokenizer):
    mixed = sources.open_mixture(("shapes:quickstart", "shapes:full"), (1.0, 3.0))
    batch = next(streams.make_batches(mixed, tokenizer, seed=0, **SIZES))
    assert batch["image"].shape == (8, 16, 16, 3)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"process_count": 3}, "global_batch_size=8"),
        ({"process_count": 2, "process_index": 2}, "process_index=2"),
        ({"low_res_px": 5}, "low_res_px=5"),
        ({"low_res_corruption": "jpeg"}, "jpeg"),
        (
            {"low_res_corruption": "blur", "low_res_corruption_strength": 0.0},
            "low_res_corruption_strength",
        ),
    ],
)
def test_settings_that_cannot_be_are_user_errors(world, tokenizer, change, word):
    with pytest.raises(errors.UserError, match=word):
        streams.make_batches(world, tokenizer, seed=0, **(SIZES | change))


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_batch_is_counted_when_it_is_taken(world, tokenizer, num_threads):
    want = _take(streams.make_batches(world, tokenizer, seed=1, **SIZES), 2)
    made = streams.make_batches(
        world, tokenizer, seed=1, num_threads=num_threads, **SIZES
    )
    for step, batch in enumerate(want):
        assert made.is_ready(60.0)
        assert made.is_ready(0.0)
        assert made.faults.seen == 8 * step
        _assert_equal(next(made), batch)
    made.close()


def test_a_closed_stream_stops_within_its_batch(world, tokenizer):
    class Slow:
        """A world of which each record takes a while."""

        read = 0

        def __len__(self) -> int:
            return len(world)

        def __getitem__(self, index: int) -> schema.Example:
            self.read += 1
            time.sleep(0.01)
            return world[index]

    source = Slow()
    batches = streams.make_batches(
        source, tokenizer, image_px=8, text_context=8, global_batch_size=500, seed=0
    )
    assert not batches.is_ready(0.5)
    batches.close()
    time.sleep(0.1)
    read = source.read
    time.sleep(0.3)
    assert 0 < read == source.read < 500
