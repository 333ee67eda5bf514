"""Signals become a flag while asked to, and only then."""

import os
import signal

import pytest

from glide_jax import errors
from glide_jax.runtime import lifecycle


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_flag_and_old_handlers_return(number):
    before = signal.getsignal(number)
    with lifecycle.StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number
    assert signal.getsignal(number) is before


def send(*signals):
    for number in signals:
        os.kill(os.getpid(), number)


def test_a_second_interrupt_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), lifecycle.StopRequest():
        send(signal.SIGINT, signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_an_interrupt_breaks_off_a_requested_stop():
    with lifecycle.StopRequest() as stop:
        send(signal.SIGTERM, signal.SIGTERM)  # launchers may repeat theirs
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_one_of_several_processes_leaves_sigterm_alone_and_turns_ctrl_c_into_it():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with lifecycle.StopRequest(is_shared=True):
            send(signal.SIGTERM, signal.SIGINT)
            assert seen == [signal.SIGTERM] * 2
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_exit_codes_are_distinct_and_fixed():
    # Launch scripts compare with these numbers.
    assert {code.name: int(code) for code in lifecycle.ExitCode} == {
        "OK": 0,
        "USER_ERROR": 2,
        "NO_CHECKPOINT": 3,
        "DIVERGED": 4,
        "PREEMPTED": 42,
        "INTERRUPTED": 130,
        "PEER_LOST": 134,
        "STALLED": 135,
        "DEVICE_FAILED": 136,
        "TERMINATED": 143,
    }


def test_the_same_command_is_run_again_after_42_and_from_128_up():
    again = [code for code in range(256) if lifecycle.is_retryable(code)]
    assert again == [42, *range(128, 256)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UserError, lifecycle.ExitCode.USER_ERROR),
        (errors.NoCheckpointError, lifecycle.ExitCode.NO_CHECKPOINT),
        (errors.DivergedError, lifecycle.ExitCode.DIVERGED),
        (errors.DeviceFailedError, lifecycle.ExitCode.DEVICE_FAILED),
    ],
)
def test_an_error_ends_with_the_code_of_its_kind(error, code):
    assert error("told").exit_code == code
    assert isinstance(error("told"), errors.UserError), "one line, no traceback"


def test_a_nested_request_starts_with_the_outer_signal():
    with lifecycle.StopRequest(signals=(signal.SIGINT,)) as outer:
        assert lifecycle.current() is outer
        send(signal.SIGINT)
        with lifecycle.StopRequest() as inner:
            assert lifecycle.current() is inner
            assert inner.signal == signal.SIGINT
            with pytest.raises(lifecycle.StoppedError, match="stopped by SIGINT"):
                inner.check()
        assert lifecycle.current() is outer
    assert lifecycle.current() is None


def test_of_several_processes_none_leaves_alone_and_all_hear_of_it():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with lifecycle.StopRequest(signals=(signal.SIGINT,)):
            send(signal.SIGINT)
            with lifecycle.StopRequest(is_shared=True) as stop:
                stop.check()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
