"""What is done stays done, and time is counted over every start."""

from __future__ import annotations

import time

import pytest

from glide_jax.quickstart import ledger


def test_a_result_outlives_the_process(tmp_path):
    path = tmp_path / "ledger.json"
    first = ledger.Ledger(path)
    assert not first.is_done("base")
    first.finish("base", {"loss": 0.25})
    again = ledger.Ledger(path)
    assert again.is_done("base")
    assert again.result("base") == {"loss": 0.25}


def interrupt(done: ledger.Ledger) -> None:
    with done.timed("base"):
        time.sleep(0.02)
        raise KeyboardInterrupt


def test_a_task_cut_off_is_not_done_but_its_time_counts(tmp_path):
    path = tmp_path / "ledger.json"
    with pytest.raises(KeyboardInterrupt):
        interrupt(ledger.Ledger(path))
    again = ledger.Ledger(path)
    assert not again.is_done("base")
    assert again.seconds("base") >= 0.02
    with again.timed("base"):
        time.sleep(0.02)
    again.finish("base", {})
    assert again.seconds("base") >= 0.04
    with again.timed("other"):
        pass
    total = again.seconds("base") + again.seconds("other")
    assert again.seconds() == pytest.approx(total)
