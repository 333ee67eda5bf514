"""A run is finished despite interruptions, and never run twice at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time

import pytest

from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, locks
from glide_jax.sweep import run_list, run_supervisor, state


@pytest.fixture
def run_one(make_plan, root):
    """run_one() -> the exit code of the only run of a sweep, and its files."""
    plan = make_plan("seeds(1)")
    run_list.keep(plan, root)
    entry = state.RunRecord(root, plan.runs[0].id)

    def run(restarts: int = 5) -> tuple[int, state.RunRecord]:
        with lifecycle.StopRequest() as stop:
            code = run_supervisor.run(plan, plan.runs[0], root, stop, restarts=restarts)
        return code, entry

    run.entry = entry
    return run


def codes(entry: state.RunRecord) -> list[int | None]:
    return [one.code for one in entry.attempts()]


def calls(entry: state.RunRecord) -> list[str]:
    return (entry.folder / "calls").read_text().splitlines()


def test_a_finished_run_is_not_started_again(glide, run_one):
    glide("finish")
    assert run_one.entry.state() == "waiting"
    for _ in range(2):
        code, entry = run_one()
        assert code == 0
    assert entry.state() == "finished"
    assert calls(entry) == [f"evaluate --base=bundle --seed=0 --output={entry.folder}"]
    assert codes(entry) == [0]
    assert "exit code 0" in entry.log.read_text()


def test_a_run_is_started_again_after_the_codes_that_mean_it(glide, run_one):
    glide("case $n in 1) exit 42 ;; 2) kill -KILL $$ ;; 3) exit 135 ;; esac; finish")
    code, entry = run_one()
    assert code == 0
    assert codes(entry) == [42, 137, 135, 0]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 127])
def test_a_run_that_fails_by_a_mistake_is_left_alone(glide, run_one, code):
    glide(f"exit {code}")
    assert run_one()[0] == code
    assert codes(run_one.entry) == [code]
    assert run_one.entry.state() == f"failed {code}"
    assert run_one.entry.has_failed


def test_restarts_are_bounded(glide, run_one):
    glide("exit 42")
    code, entry = run_one(restarts=2)
    assert (code, codes(entry)) == (42, [42, 42, 42])
    assert entry.state() == "stopped"
    assert not entry.has_failed


def test_a_good_end_without_a_result_is_none(glide, run_one, caplog):
    glide("exit 0")
    code, entry = run_one()
    assert (code, entry.state()) == (1, "failed 1")
    assert f"glide evaluate left no {entry.result}" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_and_the_end_is_waited_for(glide, run_one, number):
    glide(
        "trap 'sleep 0.3; touch \"$folder/saved\"; exit 42' TERM\n"
        'touch "$folder/ready"; while true; do sleep 0.05; done'
    )
    ready = run_one.entry.folder / "ready"

    def send():
        while not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    code, entry = run_one()
    assert code == lifecycle.ExitCode.PREEMPTED
    assert (entry.folder / "saved").exists()
    assert codes(entry) == [42]


def test_once_stopped_a_run_is_not_started_again(glide, run_one):
    glide("kill -TERM $PPID; sleep 0.5; exit 137")
    code, entry = run_one()
    assert code == lifecycle.ExitCode.PREEMPTED
    assert len(codes(entry)) == 1


def test_a_run_that_another_finishes_meanwhile_is_not_run_twice(
    glide, run_one, monkeypatch
):
    glide("finish")
    entry, take = run_one.entry, state._take
    result = '{"schema": 1, "metrics": {}, "machine": {}}'

    def take_late(file, **settings):
        entry.folder.mkdir(exist_ok=True)
        entry.result.write_text(result)
        return take(file, **settings)

    monkeypatch.setattr(state, "_take", take_late)
    assert run_one()[0] == 0
    assert entry.attempts() == []


def test_an_attempt_without_an_end_was_cut_off_and_another_follows(glide, run_one):
    glide("finish")
    run_one.entry.begin()
    assert run_one.entry.state() == "cut off"
    assert run_one()[0] == 0
    assert codes(run_one.entry) == [None, 0]


def test_a_run_is_waited_for_after_its_supervisor_was_killed(glide, run_one):
    glide("finish")
    entry = run_one.entry
    entry.begin()
    with entry.locked() as lock:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    try:
        assert entry.state() == "running"
        with entry.locked() as lock:
            assert lock is None
        threading.Timer(0.3, orphan.kill).start()
        assert run_one()[0] == 0
        assert orphan.wait() == -signal.SIGKILL, "nothing was started beside it"
    finally:
        orphan.kill()
        orphan.wait()
    assert entry.state() == "finished"


def test_time_is_that_of_all_attempts_and_a_cut_off_one_ended_with_its_last_word(
    run_one, monkeypatch
):
    now = iter([100.0, 107.0, 200.0, 300.0, 303.0, 400.0])
    monkeypatch.setattr(state.time, "time", lambda: next(now))
    entry = run_one.entry
    entry.begin()
    entry.end(42)
    entry.begin()  # cut off
    entry.log.write_text("")
    os.utime(entry.log, (220.0, 220.0))
    assert entry.seconds() == 7 + 20
    entry.begin()
    os.utime(entry.log, (290.0, 290.0))  # it said nothing since
    entry.end(0)
    assert entry.seconds() == 7 + 20 + 3
    assert codes(entry) == [42, None, 0]
    entry.begin()
    entry.folder.mkdir()
    entry.result.write_text("{}")
    os.utime(entry.result, (405.0, 405.0))
    assert entry.seconds() == 7 + 20 + 3 + 5


def test_a_disk_without_file_locks_is_named(run_one, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"No locks available\); name a --root on a"):
        run_one()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "is not a list of attempts"),
        ("[5]", "5 is not an object"),
        ('[{"host": "a", "started": "now"}]', "'started' is 'now', not int or float"),
        (
            '[{"host": "a", "started": 1, "ended": 2, "code": "0"}]',
            "'code' is '0', not",
        ),
    ],
)
def test_a_state_file_that_somebody_edited_is_named(root, text, named):
    (root / "state").mkdir(parents=True)
    (root / "state" / "ab.json").write_text(text)
    with pytest.raises(UserError, match=named):
        state.RunRecord(root, "ab").state()
