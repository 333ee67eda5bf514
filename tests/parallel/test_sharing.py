"""How work is shared out by index; tests/sample/test_processes.py runs processes."""

from __future__ import annotations

import pytest

from glide_jax.errors import UserError
from glide_jax.parallel import distributed, sharing


@pytest.fixture
def process(monkeypatch):
    """process(1, 3): this process is number 1 of 3."""

    def be(index, count):
        monkeypatch.setattr(distributed, "process_id", lambda: index)
        monkeypatch.setattr(distributed, "process_count", lambda: count)

    return be


@pytest.mark.parametrize(
    ("done", "gaps"),
    [
        ([], [(0, 9)]),
        ([(0, 9)], []),
        ([(4, 6), (0, 2)], [(2, 4), (6, 9)]),
        ([(0, 0), (7, 9)], [(0, 7)]),
    ],
)
def test_what_is_missing_is_what_is_not_done(done, gaps):
    assert sharing.missing(done, 9) == gaps


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_every_picture_is_drawn_once(process, count, num_processes):
    drawn = []
    for index in range(num_processes):
        process(index, num_processes)
        batches = sharing.cut([(0, 2 * count), (3 * count, 4 * count)], 4, 4 * count)
        mine, others = sharing.own(batches), sharing.of_others(batches)
        assert sorted(mine + others) == batches
        drawn += [n for first, stop in mine for n in range(first, stop)]
    assert sorted(drawn) == [*range(2 * count), *range(3 * count, 4 * count)]


def test_a_small_job_reaches_every_process(process):
    process(0, 4)
    assert sharing.cut([(0, 8)], 16, 8) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_a_resumed_run_has_the_batches_of_a_whole_one(process):
    process(0, 3)
    whole = sharing.cut([(0, 10)], 2, 10)
    assert sharing.cut(sharing.missing([(0, 4), (6, 8)], 10), 2, 10) == [
        batch for batch in whole if batch not in ((0, 2), (2, 4), (6, 8))
    ]


def test_a_file_that_does_not_appear_names_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "SEEN_WITHIN_SECS", 0)
    with pytest.raises(UserError, match="--output must be one folder on a disk"):
        sharing.wait_for_file(tmp_path / "absent.npz", flag="--output")
