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
from glide_jax.data import bad_records, pipeline, schema, tar_shards
from tests.data import streams

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
    seen: list[bad_records.Bad] = []
    batches = streams.make_batches(
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
        batches = streams.make_batches(
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
    batches = streams.make_batches(shards, tokenizer, **SIZES, max_bad_frac=0.005)
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
    batches = streams.make_batches(
        source, tokenizer, **SIZES, max_bad_frac=1.0, on_bad=lambda _: None
    )
    with pytest.raises(errors.UserError, match="no usable"):
        next(batches)


def _bad(record: int, kind: str = "broken image", position: int = 0) -> bad_records.Bad:
    error = schema.BadRecordError(kind, f"record {record}")
    return bad_records.bad_at(position, record, error)


def _counter(max_bad_frac: float, num_records: int = 10_000, **settings):
    settings = {"on_bad": lambda _: None} | settings
    return bad_records.FaultCounter(max_bad_frac, num_records, **settings)


def test_no_tolerance_means_the_first_bad_record_stops():
    with pytest.raises(errors.UserError, match="1 of 2 records"):
        _counter(0.0).count(1, [_bad(1)])


@pytest.mark.parametrize("num_records", [1, 60, 100, 1000, 10**9])
def test_one_bad_record_does_not_stop_a_set_of_any_size(num_records):
    counter = _counter(0.01, num_records)
    for _ in range(500):  # it is drawn again and again
        counter.count(1, [_bad(0)])
    assert bad_records.metrics(counter.state())["data/bad"] == 1


@pytest.mark.parametrize(
    ("num_records", "allowed"), [(60, 1), (100, 1), (101, 2), (500, 5), (1000, 10)]
)
def test_the_share_is_one_of_the_set(num_records, allowed):
    counter = _counter(0.01, num_records)
    for record in range(allowed):
        counter.count(5 * num_records, [_bad(record)])
    with pytest.raises(errors.UserError, match=f"{allowed + 1} of {num_records} rec"):
        counter.count(0, [_bad(allowed)])


def test_what_all_processes_had_accepted_does_not_stop_a_resumed_one():
    """Two processes of a set of 60 had one bad record each, as each may."""
    start = bad_records.to_state(100, {1: "broken image", 2: "broken image"})
    counter = _counter(0.01, 60, start=start)
    counter.count(4, [_bad(1)])
    with pytest.raises(errors.UserError, match="3 of 60 records"):
        counter.count(0, [_bad(3)])


def test_a_large_set_stops_early_where_much_of_what_was_drawn_is_bad():
    counter = _counter(0.01, 10**9)
    counter.count(26, map(_bad, range(10)))
    with pytest.raises(errors.UserError, match="11 of 37 records"):
        counter.count(0, [_bad(10)])
    # Later on the share is one of all that was drawn.
    counter = _counter(0.01, 10**9)
    counter.count(99_900, map(_bad, range(100)))
    with pytest.raises(errors.UserError, match="1020 of 100920 records"):
        counter.count(0, map(_bad, range(100, 1020)))


def test_all_records_may_be_bad_where_that_is_allowed():
    _counter(1.0, 3).count(0, [_bad(0), _bad(1), _bad(2)] * 100)


def test_bad_records_that_stopped_a_run_are_counted_by_its_continuation():
    batches = [(3, []), (1, [_bad(1), _bad(2)]), (4, [_bad(1)])]
    straight, stopped = _counter(1.0), _counter(0.001)
    for batch in batches:
        straight.count(*batch)
    stopped.count(*batches[0])
    with pytest.raises(errors.UserError, match="2 of 6 records"):
        stopped.count(*batches[1])
    resumed = _counter(1.0, start=stopped.state())
    for batch in batches[1:]:
        resumed.count(*batch)
    assert resumed.state() == straight.state()


def test_records_known_before_a_resume_are_not_counted_again():
    counter = _counter(0.01, 60)
    counter.count(30, [_bad(7, "empty caption")])
    told: list[bad_records.Bad] = []
    state = json.loads(json.dumps(counter.state()))  # as a checkpoint carries it
    resumed = _counter(0.01, 60, on_bad=told.append, start=state)
    resumed.count(0, [_bad(7, "empty caption")])
    # The log of the workdir drops what it holds already.
    assert [bad.record for bad in told] == [7]
    assert resumed.state() == {"seen": 32, "records": {"empty caption": [7]}}
    with pytest.raises(errors.UserError, match="1 broken image"):
        resumed.count(0, [_bad(8)])


def test_a_checkpoint_that_counts_draws_is_gone_on_from():
    resumed = _counter(0.01, 60, start={"seen": 587, "broken image": 11})
    resumed.count(0, [_bad(7)])
    assert resumed.state() == {"seen": 588, "records": {"broken image": [7]}}


def test_bad_records_are_logged_by_default(caplog):
    bad_records.FaultCounter(1.0, 10).count(0, [_bad(7)])
    assert "record 7: broken image" in caplog.text


def test_a_bad_record_is_logged_once_and_the_first_are_named_at_the_end():
    told: list[int] = []
    counter = _counter(0.002, 1000, on_bad=lambda bad: told.append(bad.record))
    counter.count(0, [_bad(1), _bad(1), _bad(2)])
    with pytest.raises(errors.UserError, match="first: record 1, record 2, record 3"):
        counter.count(0, [_bad(3)])
    assert told == [1, 2, 3]


def test_no_more_records_are_remembered_than_fit(monkeypatch):
    monkeypatch.setattr(bad_records, "MAX_REMEMBERED", 2)
    counter = _counter(1.0, 4)
    counter.count(0, map(_bad, [0, 1, 2]))  # new as long as the set is drawn first
    counter.count(0, map(_bad, [0, 1, 2, 3]))
    assert counter.state() == {"seen": 7, "records": {"broken image": [0, 1, 2]}}


def test_one_broken_picture_of_sixty_does_not_end_a_long_run(
    tmp_path, write_tar, pictures, tokenizer
):
    twenty = pictures(20)
    members = {f"{i}{name}": data for i in range(3) for name, data in twenty.items()}
    members["1017.png"] = members["1017.png"][:40]
    write_tar(tmp_path / "a.tar", members)
    batches = streams.make_batches(
        tar_shards.TarShards(str(tmp_path / "a.tar")), tokenizer, **SIZES
    )
    collections.deque(itertools.islice(batches, 60), maxlen=0)  # ten skips it
    assert batches.faults.seen > 600
    assert batches.faults.by_kind() == {"broken image": 1}


@pytest.mark.parametrize("num_threads", [0, 3])
def test_counts_follow_the_batches_taken_not_those_read_ahead(
    shards, tokenizer, num_threads
):
    def start(step: int, before: dict | None = None) -> pipeline.Batches:
        return streams.make_batches(
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
    assert bad_records.metrics(whole.faults.state()) == {"data/bad": 0}
    states = []
    for _ in range(6):
        next(whole)
        states.append(whole.faults.state())
    # Two batches are an epoch of 20, of which three are bad; replacements may be, too.
    assert states[1]["seen"] >= 23
    want = {"broken image": [3], "empty caption": [5], "missing caption": [4]}
    assert states[1]["records"] == want
    resumed = start(3, states[2])
    for want in states[3:]:
        next(resumed)
        assert resumed.faults.state() == want


def test_the_step_that_stops_is_the_same_for_any_number_of_threads(shards, tokenizer):
    seen = set()
    for num_threads in (0, 1, 4):
        batches = streams.make_batches(
            shards, tokenizer, **SIZES, max_bad_frac=0.01, num_threads=num_threads
        )
        with pytest.raises(errors.UserError, match="more than data"):
            collections.deque(batches, maxlen=0)
        seen.add(batches.faults.seen)
    assert len(seen) == 1


def test_the_record_log_of_a_resumed_run_is_that_of_one_never_stopped(tmp_path):
    bads = [_bad(record, position=i) for i, record in enumerate([1, 2, 1, 3, 4])]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    _counter(1.0, on_bad=bad_records.RecordLog(whole)).count(0, bads)
    _counter(1.0, on_bad=bad_records.RecordLog(cut)).count(0, bads[:4])
    with cut.open("a") as file:
        file.write('{"kind": "half a li')
    # A checkpoint of before record 1 came again; what is told twice is dropped.
    _counter(1.0, on_bad=bad_records.RecordLog(cut, 2)).count(0, bads[2:])
    assert cut.read_text() == whole.read_text()
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    found = [(row["record"], row["position"]) for row in rows]
    assert found == [(1, 0), (2, 1), (3, 3), (4, 4)]
    assert rows[0]["kind"] == rows[0]["reason"] == "broken image"


def test_a_truncated_line_of_the_record_log_is_written_again(tmp_path):
    bads = [_bad(1), _bad(2, position=1), _bad(3, position=2)]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    _counter(1.0, on_bad=bad_records.RecordLog(whole)).count(0, bads)
    _counter(1.0, on_bad=bad_records.RecordLog(cut)).count(0, bads[:2])
    # A full disk took all of the last line but its end.
    cut.write_bytes(cut.read_bytes().removesuffix(b"\n"))
    _counter(1.0, on_bad=bad_records.RecordLog(cut, 2)).count(0, [bads[1], bads[2]])
    assert cut.read_text() == whole.read_text()


def test_a_resumed_run_logs_only_records_that_it_has_not_listed(tmp_path, caplog):
    bads = [_bad(record, position=i) for i, record in enumerate([1, 2, 3])]
    path = tmp_path / "log.jsonl"
    _counter(1.0, on_bad=bad_records.RecordLog(path)).count(0, bads[:2])
    assert bad_records.listed_records(path) == {1, 2}
    caplog.clear()
    # Resumed before record 2, which is drawn and written again.
    _counter(1.0, on_bad=bad_records.RecordLog(path, 1)).count(0, bads[1:])
    assert [m for m in caplog.messages if "record 2" in m] == []
    assert len([m for m in caplog.messages if "record 3" in m]) == 1
    assert bad_records.listed_records(path) == {1, 2, 3}


def test_the_record_log_stops_growing(tmp_path, monkeypatch):
    monkeypatch.setattr(bad_records, "MAX_LOG_BYTES", 300)
    log = bad_records.RecordLog(tmp_path / "log.jsonl")
    for i in range(50):
        log(_bad(i))
    assert 200 < (tmp_path / "log.jsonl").stat().st_size <= 300


def test_a_record_that_several_processes_met_is_counted_once():
    parts = [
        {"seen": 7, "records": {"empty caption": [2, 5]}},
        {"seen": 5, "records": {"empty caption": [5], "vanished shard": [1 << 40]}},
    ]
    rows = np.concatenate([bad_records.to_rows(part) for part in parts])
    want = {"empty caption": [2, 5], "vanished shard": [1 << 40]}
    assert bad_records.from_rows(12, rows) == {"seen": 12, "records": want}
    nothing = bad_records.to_rows({"seen": 3, "records": {}})
    assert bad_records.from_rows(3, nothing) == {"seen": 3, "records": {}}


def test_every_kind_of_fault_in_the_code_has_its_number():
    files = pathlib.Path(bad_records.__file__).parent.glob("*.py")
    literals = {
        node.value
        for path in files
        if path.name != "fault.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    whole = {
        kind for kind in bad_records.KINDS if kind.split()[-1] not in ("shard", "file")
    }
    pattern = r"(broken|empty|huge|missing|narrow) (caption|image|record)"
    said = {text for text in literals if re.fullmatch(pattern, text)}
    assert said | {"decompression bomb", "truncated tar"} == whole
    fates = itertools.product(("changed", "vanished", "unreadable"), ("file", "shard"))
    assert {" ".join(pair) for pair in fates} == {*bad_records.KINDS} - whole


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
        batches = streams.make_batches(
            tar_shards.TarShards(str(tmp_path / f"{i}.tar")),
            tokenizer,
            **SIZES,
            max_bad_frac=1.0,
            on_bad=lambda _: None,
        )
        rows.append([next(batches)["image"] for _ in range(4)])
    np.testing.assert_array_equal(*rows)
