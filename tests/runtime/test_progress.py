"""Logs stay short, terminals get a bar."""

import io
import logging
import sys
import time

from glide_jax.runtime import progress


class Terminal(io.StringIO):
    """A text stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_at_the_end_of_a_short_loop():
    log = io.StringIO()
    with progress.ProgressBar(200, "train", initial=100, stream=log) as bar:
        for _ in range(100):
            bar.update(1)
            bar.note(loss=0.25)
    (line,) = log.getvalue().splitlines()
    assert line.startswith("train: 200/200, 100%")
    assert "loss=0.25" in line


def test_a_log_gets_a_line_each_interval(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_SECS", 0.01)
    log = io.StringIO()
    with progress.ProgressBar(4, "sample", stream=log) as bar:
        bar.update(1)
        time.sleep(0.02)
        bar.update(1)
    # The last line says all that the bar would say when it closes.
    (line,) = log.getvalue().splitlines()
    assert line.startswith("sample: 2/4, 50%")
    assert line.endswith("s left")


def test_a_silent_bar_writes_nothing(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_SECS", 0.0)
    for stream in (io.StringIO(), Terminal()):
        bar = progress.ProgressBar(2, "train", stream=stream, enabled=False)
        with bar:
            bar.update(1)
            bar.note(loss=0.25)
        assert stream.getvalue() == ""


def test_parts_of_a_picture_add_up_to_it():
    for updates, shown in (([0.25] * 3, "draw: 0.8/2, "), ([0.1] * 20, "draw: 2/2, ")):
        log = io.StringIO()
        with progress.ProgressBar(2, "draw", stream=log) as bar:
            for n in updates:
                bar.update(n)
        assert log.getvalue().startswith(shown)


def test_closing_twice_writes_once():
    log = io.StringIO()
    bar = progress.ProgressBar(1, "sample", stream=log)
    bar.close()
    bar.close()
    assert log.getvalue() == "sample: 0/1, 0%, just started\n"


def test_the_time_left_excludes_the_first_step_which_compiles():
    log = io.StringIO()
    with progress.ProgressBar(12, "train", stream=log) as bar:
        begin = time.monotonic()
        time.sleep(1)
        for _ in range(11):
            bar.update(1)
        seconds = time.monotonic() - begin
    rate = float(log.getvalue().split("%, ")[1].split("/s")[0])
    assert rate > 11 / seconds


def test_a_finished_loop_shows_its_time_and_no_time_left():
    for updates in ([1, 1], [2]):
        log = io.StringIO()
        with progress.ProgressBar(2, "draw", stream=log) as bar:
            for n in updates:
                bar.update(n)
        assert log.getvalue().startswith("draw: 2/2, 100%, 0.0 s")
        assert "left" not in log.getvalue()


def test_a_terminal_gets_a_bar_with_rate_and_fields():
    terminal = Terminal()
    with progress.ProgressBar(10, "train", stream=terminal) as bar:
        bar.note(loss=0.5)
        bar.update(10)
    assert "train: 100%" in terminal.getvalue()
    assert "loss=0.5" in terminal.getvalue()


def test_a_log_record_goes_above_the_bar_and_leaves_it_whole(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.root, "handlers", [console])
    with progress.ProgressBar(10, "train") as bar:
        bar.update(5)
        logging.warning("step 5: 0.5 s")
    # The bar is wiped before the record, which has a line of its own.
    assert "\rstep 5: 0.5 s\n" in terminal.getvalue()
    assert logging.root.handlers == [console]
