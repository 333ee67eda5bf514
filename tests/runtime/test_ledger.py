"""What is done stays done, and time is counted over every start."""

from __future__ import annotations

import time

import pytest

from glide_jax.errors import UserError
from glide_jax.runtime import ledger


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


def test_a_setting_of_the_first_start_cannot_change(tmp_path):
    ledger.Ledger(tmp_path / "ledger.json").keep_setting("scale", 0.5)
    again = ledger.Ledger(tmp_path / "ledger.json")
    again.keep_setting("scale", 0.5)
    with pytest.raises(UserError, match=r"--scale=1.0 differs from 0\.5.*--output"):
        again.keep_setting("scale", 1.0)
    assert again.seconds() == 0


@pytest.mark.parametrize("content", ['{"base": {"seco', "[]", '{"base": 1}', ""])
def test_a_damaged_ledger_is_one_line(tmp_path, content):
    path = tmp_path / "ledger.json"
    path.write_text(content)
    with pytest.raises(UserError, match="remove it") as error:
        ledger.Ledger(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
