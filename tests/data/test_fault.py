"""Bad records are replaced, named, counted, and in the end refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.data import fault, pipeline, schema, tar_shards

SIZES = {"image_px": 8, "text_context": 12, "global_batch_size": 10, "seed": 0}


@pytest.fixture
def shards(tmp_path, write_tar, pictures):
    """20 pictures of which #3 is broken, #4 lacks and #5 has an empty caption."""
    members = pictures(20)
    members["003.png"] = members["003.png"][:40]
    del members["004.txt"]
    members["005.txt"] = b" \n"
    write_tar(tmp_path / "a.tar", members)
    return tar_shards.TarShards(str(tmp_path / "*.tar"))


def test_bad_records_are_replaced_and_named(shards, tokenizer):
    seen: list[schema.BadRecordError] = []
    batches = pipeline.make_batches(
        shards, tokenizer, **SIZES, max_bad_frac=1.0, on_bad=seen.append, num_threads=0
    )
    # Two batches are one epoch.
    for batch in (next(batches), next(batches)):
        assert batch["image"].shape == (10, 8, 8, 3)
        assert batch["text_mask"].any(axis=1).all()
    assert {(bad.kind, bad.key) for bad in seen} == {
        ("broken image", "a.tar:003"),
        ("missing caption", "a.tar:004"),
        ("empty caption", "a.tar:005"),
    }


def test_a_replacement_does_not_depend_on_the_process_or_restart(shards, tokenizer):
    def rows(**slices) -> np.ndarray:
        batches = pipeline.make_batches(
            shards,
            tokenizer,
            **SIZES,
            max_bad_frac=1.0,
            on_bad=lambda _: None,
            **slices,
        )
        return next(batches)["image"]

    halves = [rows(process_index=i, process_count=2) for i in range(2)]
    np.testing.assert_array_equal(rows(), np.concatenate(halves))


def test_too_many_bad_records_stop_the_stream_and_say_which(shards, tokenizer):
    batches = pipeline.make_batches(shards, tokenizer, **SIZES, max_bad_frac=0.005)
    with pytest.raises(errors.UserError) as caught:
        list(itertools.islice(batches, 100))
    message = str(caught.value)
    assert "data.max_bad_frac=0.005" in message
    assert "a.tar:00" in message
    assert "broken image" in message


def test_a_source_without_one_usable_record_stops_even_when_all_may_be_bad(
    tmp_path, write_tar, pictures, tokenizer
):
    members = dict.fromkeys(pictures(5), b"")
    write_tar(tmp_path / "a.tar", members)
    source = tar_shards.TarShards(str(tmp_path / "a.tar"))
    batches = pipeline.make_batches(
        source, tokenizer, **SIZES, max_bad_frac=1.0, on_bad=lambda _: None
    )
    with pytest.raises(errors.UserError, match="no usable"):
        next(batches)


def test_no_tolerance_means_the_first_bad_record_stops():
    counter = fault.FaultCounter(0.0, lambda _: None)
    counter.count_good()
    with pytest.raises(errors.UserError, match="1 of 2 records"):
        counter.count_bad(schema.BadRecordError("broken image", "x"))


def test_a_few_bad_records_at_the_start_are_not_a_share():
    counter = fault.FaultCounter(0.01, lambda _: None)
    for _ in range(10):
        counter.count_bad(schema.BadRecordError("broken image", "x"))
    with pytest.raises(errors.UserError, match="11 of 11 records"):
        counter.count_bad(schema.BadRecordError("broken image", "x"))


def test_bad_records_are_logged_by_default(caplog):
    fault.FaultCounter(1.0).count_bad(schema.BadRecordError("broken image", "shard:7"))
    assert "shard:7" in caplog.text


def test_a_bad_record_is_told_of_once_and_none_once_the_limit_is_passed():
    told: list[str] = []
    counter = fault.FaultCounter(0.003, lambda bad: told.append(bad.key))
    for key in ("a", "a", "b"):
        counter.count_bad(schema.BadRecordError("broken image", key))
    for key in ("c", "d"):
        with pytest.raises(errors.UserError, match="first: a, b, "):
            counter.count_bad(schema.BadRecordError("broken image", key))
    assert told == ["a", "b"]
