"""A start refuses data that would end the run, and data that would not it passes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from glide_jax.config import resolve
from glide_jax.data import bad_records, mixture, pipeline, schema, shapes_world
from glide_jax.errors import UserError
from glide_jax.train import batches, captions, data_check, setup


class Records:
    """Small pictures, some of which cannot be used; counts how often each is read."""

    def __init__(self, count: int, bad: set[int] = frozenset(), px: int = 8) -> None:
        self.count, self.bad, self.px = count, bad, px
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return "records"

    def __getitem__(self, index: int) -> schema.Example:
        self.reads.append(index)
        caption = "" if index in self.bad else f"picture {index}"
        picture = np.full((self.px, self.px, 3), index % 256, np.uint8)
        return schema.Example(picture, caption, f"record {index}")


def check(config, source, **settings):
    data_check.check_start(config, source, **({"is_thorough": True} | settings))


def ends(config, source, steps: int = 40) -> bool:
    """Whether a run of some steps ends by its data."""
    settings = pipeline.BatchSettings(
        batches.row_settings(config),
        global_batch_size=config.train.global_batch_size,
        max_bad_frac=config.data.max_bad_frac,
        num_threads=0,
    )
    made = pipeline.make_batches(
        source, captions.NoTokens(), settings, on_bad=lambda bad: None
    )
    try:
        list(itertools.islice(made, steps))
    except UserError:
        return True
    return False


@pytest.mark.parametrize("batch", [4, 1200])
@pytest.mark.parametrize("every", [5, 50, 400])
def test_what_a_start_refuses_a_run_refuses(make_config, batch, every):
    config = make_config(changes={"train.global_batch_size": batch})
    source = Records(5000, bad=set(range(0, 5000, every)))
    if every > 20:
        check(config, source)
        return
    with pytest.raises(UserError, match="more than data"):
        check(config, source)
    assert ends(config, source, steps=2000 // batch + 1)


def test_a_source_that_is_read_whole_is_checked_as_a_run_checks_it(make_config):
    for count, bad, is_refused in ((100, 1, False), (100, 2, True), (200, 2, False)):
        source = Records(count, bad=set(range(bad)))
        if is_refused:
            with pytest.raises(UserError, match="2 of 100 records cannot be used"):
                check(make_config(), source)
        else:
            check(make_config(), source)
        assert ends(make_config(), source, steps=200) == is_refused


def test_a_share_that_the_run_allows_passes(make_config, caplog):
    source = Records(100, bad=set(range(30)))
    check(make_config(changes={"data.max_bad_frac": 0.3}), source)
    assert "30 of the first 100 records cannot be used, e.g. record" in caplog.text


def test_no_usable_record_ends_a_start_of_any_kind(make_config):
    source = Records(5000, bad=set(range(5000)))
    for is_thorough, read in ((True, 256), (False, 8)):
        with pytest.raises(UserError, match=f"none of the first {read} records"):
            check(make_config(), source, is_thorough=is_thorough)
    with pytest.raises(UserError, match="no records"):
        check(make_config(), Records(0))


def test_a_resumed_run_is_not_checked_again(make_config):
    source = Records(100, bad=set(range(50)))
    check(make_config(), source, is_thorough=False)
    assert len(source.reads) == data_check.FEW_RECORDS


def test_a_bounded_number_of_records_is_read_once_each(make_config, monkeypatch):
    source = Records(100_000)
    check(make_config(), source)
    assert len(set(source.reads)) == len(source.reads) == data_check.MOST_RECORDS
    assert min(source.reads) < 10_000
    assert max(source.reads) > 90_000
    slow = Records(100_000)
    monkeypatch.setattr(data_check, "MOST_SECS", 0.0)
    check(make_config(), slow)
    assert not slow.reads


def test_the_order_of_batches_is_the_same_after_a_check(make_config):
    def drawn(source) -> list[int]:
        start = len(source.reads)
        ends(make_config(), source, steps=5)
        return source.reads[start:]

    source = Records(1000)
    before = drawn(source)
    check(make_config(), source)
    assert drawn(source) == before


def test_small_pictures_and_small_sources_are_logged(make_config, caplog):
    check(make_config(), Records(3, px=4))
    assert "3 records, fewer than train.global_batch_size=4" in caplog.text
    assert "3 of the first 3 pictures have a short side below model.image_px=8" in (
        caplog.text
    )


def test_drawn_pictures_are_not_read(make_config):
    world, stored = shapes_world.ShapesWorld(length=2000), Records(10)
    assert data_check.spread(make_config(), world, 100) == []
    mixed = mixture.Mixture((world, stored), (1.0, 1.0))
    first = len(world)
    for most in (64, len(mixed)):
        found = data_check.spread(make_config(), mixed, most)
        assert sorted(found) == list(range(first, first + 10))
    check(make_config(), world)


def test_the_counter_of_a_start_is_that_of_a_run():
    # A larger first batch is judged by its own size, as a run does.
    bad = [bad_records.Bad("empty caption", "key", "", 0, i) for i in range(12)]
    bad_records.FaultCounter(0.01, 5000, lambda bad: None, min_seen=2048).count(
        244, bad
    )
    with pytest.raises(UserError):
        bad_records.FaultCounter(0.01, 5000, lambda bad: None).count(244, bad)


def test_an_override_of_the_share_reaches_the_check(make_config):
    config = resolve.override(make_config(), {"data.max_bad_frac": 0.0})
    with pytest.raises(UserError, match="1 of 50 records"):
        check(config, Records(50, bad={7}))


def test_records_that_an_earlier_start_listed_are_not_named_again(make_config, caplog):
    source = Records(100, bad={3})
    for known, count in ((), 1), ({3}, 0):
        caplog.clear()
        check(make_config(), source, known=known)
        assert len([m for m in caplog.messages if "cannot be used" in m]) == count


def test_a_start_names_the_list_of_an_earlier_one_in_one_line(tmp_path, caplog):
    path = tmp_path / "bad_records.jsonl"
    assert setup._log_known_records(tmp_path) == set()
    assert caplog.messages == []
    log = bad_records.RecordLog(path)
    for record in (3, 5):
        log(bad_records.bad_at(0, record, schema.BadRecordError("huge image", "x")))
    caplog.clear()
    assert setup._log_known_records(tmp_path) == {3, 5}
    (line,) = caplog.messages
    assert line.startswith("2 records")
    assert str(path) in line


def test_bad_validation_records_take_one_line(make_config, caplog):
    config = make_config()
    source = Records(16, bad={2, 5, 9})
    made = batches.validation_batches(config, source, captions.NoTokens(), (0, 1))
    assert len(made) > 1
    (line,) = [m for m in caplog.messages if "cannot be used" in m]
    assert "3 records" in line
    caplog.clear()
    batches.validation_batches(config, Records(16), captions.NoTokens(), (0, 1))
    assert caplog.messages == []
