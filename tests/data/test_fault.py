"""Bad records are replaced, named, counted, and in the end refused."""

from __future__ import annotations

import ast
import collections
import itertools
import json
import pathlib
import re

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
    members["004.json"] = b"{}"
    members["005.txt"] = b" \n"
    write_tar(tmp_path / "a.tar", members)
    return tar_shards.TarShards(str(tmp_path / "*.tar"))


def test_bad_records_are_replaced_and_named(shards, tokenizer):
    seen: list[fault.Bad] = []
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


def _bad(key: str, kind: str = "broken image", position: int = 0) -> fault.Bad:
    return fault.bad_at(position, schema.BadRecordError(kind, key))


def test_no_tolerance_means_the_first_bad_record_stops():
    counter = fault.FaultCounter(0.0, lambda _: None)
    with pytest.raises(errors.UserError, match="1 of 2 records"):
        counter.count(1, [_bad("x")])


def test_what_stopped_a_run_is_counted_by_the_run_that_goes_on():
    batches = [(3, []), (1, [_bad("x"), _bad("y")]), (4, [_bad("x")])]
    straight, stopped = fault.FaultCounter(1.0), fault.FaultCounter(0.0015)
    for batch in batches:
        straight.count(*batch)
    stopped.count(*batches[0])
    with pytest.raises(errors.UserError, match="2 of 6 records"):
        stopped.count(*batches[1])
    resumed = fault.FaultCounter(1.0, start=stopped.state())
    for batch in batches[1:]:
        resumed.count(*batch)
    assert resumed.state() == straight.state()


def test_a_few_bad_records_at_the_start_are_not_a_share():
    counter = fault.FaultCounter(0.01, lambda _: None)
    counter.count(0, [_bad("x")] * 10)
    with pytest.raises(errors.UserError, match="11 of 11 records"):
        counter.count(0, [_bad("x")])


def test_bad_records_are_logged_by_default(caplog):
    fault.FaultCounter(1.0).count(0, [_bad("shard:7")])
    assert "shard:7: broken image" in caplog.text


def test_a_bad_record_is_told_of_once_and_the_first_are_named_at_the_end():
    told: list[str] = []
    counter = fault.FaultCounter(0.003, lambda bad: told.append(bad.key))
    counter.count(0, [_bad("a"), _bad("a"), _bad("b")])
    with pytest.raises(errors.UserError, match="first: a, b, c"):
        counter.count(0, [_bad("c")])
    assert told == ["a", "b", "c"]


def test_no_more_names_are_remembered_than_fit(monkeypatch):
    monkeypatch.setattr(fault, "MAX_REMEMBERED", 2)
    told: list[str] = []
    counter = fault.FaultCounter(1.0, lambda bad: told.append(bad.key))
    counter.count(0, [_bad(key) for key in "abcda"])
    assert told == ["a", "b"]
    assert fault.metrics(counter.state()) == {"data/bad": 5, "data/bad/broken_image": 5}


@pytest.mark.parametrize("num_threads", [0, 3])
def test_counts_follow_the_batches_taken_not_those_read_ahead(
    shards, tokenizer, num_threads
):
    def start(step: int, before: dict[str, int] | None = None) -> pipeline.Batches:
        return pipeline.make_batches(
            shards,
            tokenizer,
            **SIZES,
            start_step=step,
            faults_before=before,
            max_bad_frac=1.0,
            on_bad=lambda _: None,
            num_threads=num_threads,
        )

    whole = start(0)
    assert fault.metrics(whole.faults.state()) == {"data/bad": 0}
    states = []
    for _ in range(6):
        next(whole)
        states.append(whole.faults.state())
    # Two batches are an epoch of 20, of which three are bad; replacements may be, too.
    assert states[1]["seen"] >= 23
    assert states[1]["missing caption"] >= 1
    resumed = start(3, states[2])
    for want in states[3:]:
        next(resumed)
        assert resumed.faults.state() == want


def test_the_step_that_stops_is_the_same_for_any_number_of_threads(shards, tokenizer):
    seen = set()
    for num_threads in (0, 1, 4):
        batches = pipeline.make_batches(
            shards, tokenizer, **SIZES, max_bad_frac=0.01, num_threads=num_threads
        )
        with pytest.raises(errors.UserError, match="more than data"):
            collections.deque(batches, maxlen=0)
        seen.add(batches.faults.seen)
    assert len(seen) == 1


def test_the_record_log_of_a_resumed_run_is_that_of_one_never_stopped(tmp_path):
    bads = [_bad(key, position=i) for i, key in enumerate(["a", "b", "a", "c", "d"])]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    fault.FaultCounter(1.0, fault.RecordLog(whole)).count(0, bads)
    fault.FaultCounter(1.0, fault.RecordLog(cut)).count(0, bads[:4])
    with cut.open("a") as file:
        file.write('{"kind": "half a li')
    # A checkpoint of before "a" came again; what is told twice is dropped.
    fault.FaultCounter(1.0, fault.RecordLog(cut, 2)).count(0, bads[2:])
    assert cut.read_text() == whole.read_text()
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [(row["key"], row["position"]) for row in rows] == [
        ("a", 0),
        ("b", 1),
        ("c", 3),
        ("d", 4),
    ]
    assert rows[0]["kind"] == rows[0]["reason"] == "broken image"


def test_a_line_of_the_record_log_that_lost_its_end_is_told_again(tmp_path):
    bads = [_bad("a"), _bad("b", position=1), _bad("c", position=2)]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    fault.FaultCounter(1.0, fault.RecordLog(whole)).count(0, bads)
    fault.FaultCounter(1.0, fault.RecordLog(cut)).count(0, bads[:2])
    # A full disk took all of the last line but its end.
    cut.write_bytes(cut.read_bytes().removesuffix(b"\n"))
    fault.FaultCounter(1.0, fault.RecordLog(cut, 2)).count(0, [bads[1], bads[2]])
    assert cut.read_text() == whole.read_text()


def test_the_record_log_stops_growing(tmp_path, monkeypatch):
    monkeypatch.setattr(fault, "MAX_LOG_BYTES", 300)
    log = fault.RecordLog(tmp_path / "log.jsonl")
    for i in range(50):
        log(_bad(f"record {i}"))
    assert 200 < (tmp_path / "log.jsonl").stat().st_size <= 300


def test_counts_of_processes_add_up_as_vectors():
    parts = [{"seen": 7, "empty caption": 2}, {"seen": 5, "vanished shard": 1}]
    total = sum(map(fault.to_vector, parts))
    want = {"seen": 12, "empty caption": 2, "vanished shard": 1}
    assert fault.from_vector(total) == want
    assert fault.from_vector(fault.to_vector({})) == {"seen": 0}


def test_every_kind_of_fault_in_the_code_has_its_place_in_the_vector():
    files = pathlib.Path(fault.__file__).parent.glob("*.py")
    literals = {
        node.value
        for path in files
        if path.name != "fault.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    whole = {kind for kind in fault.KINDS if kind.split()[-1] not in ("shard", "file")}
    pattern = r"(broken|empty|huge|missing|narrow) (caption|image|record)"
    said = {text for text in literals if re.fullmatch(pattern, text)}
    assert said | {"decompression bomb", "truncated tar"} == whole
    fates = itertools.product(("changed", "vanished", "unreadable"), ("file", "shard"))
    assert {" ".join(pair) for pair in fates} == {*fault.KINDS} - whole


def test_rows_are_the_same_for_bad_records_of_any_kind(
    tmp_path, write_tar, pictures, tokenizer
):
    # What is drawn instead depends on position and attempt alone, so the good rows of
    # two sets that are bad at the same places are the same.
    rows = []
    faults = [
        lambda members: members.update({"003.png": b"", "007.txt": b""}),
        lambda members: members.update({"003.txt": b"\xff", "007.png": b"GIF89a"}),
    ]
    for i, spoil in enumerate(faults):
        members = pictures(10)
        spoil(members)
        write_tar(tmp_path / f"{i}.tar", members)
        batches = pipeline.make_batches(
            tar_shards.TarShards(str(tmp_path / f"{i}.tar")),
            tokenizer,
            **SIZES,
            max_bad_frac=1.0,
            on_bad=lambda _: None,
        )
        rows.append([next(batches)["image"] for _ in range(4)])
    np.testing.assert_array_equal(*rows)
