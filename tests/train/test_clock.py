"""Every second of a run is counted once."""

from __future__ import annotations

import contextlib

from glide_jax.train import run_log


class Time:
    """A clock that advances only by explicit calls."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_a_lap_is_the_sum_of_its_parts():
    time = Time()
    clock = run_log.StepTimer(time)
    for part, seconds in (("input_wait", 2), ("dispatch", 1), ("input_wait", 3)):
        time.spend(0.5)
        with clock.measure(part):
            time.spend(seconds)
    assert clock.lap() == dict.fromkeys(run_log.PARTS, 0) | {
        "input_wait": 5,
        "dispatch": 1,
        "other": 1.5,
    }


def test_each_lap_starts_at_zero_and_the_total_continues():
    time = Time()
    clock = run_log.StepTimer(time)
    for _ in range(2):
        with clock.measure("device"):
            time.spend(4)
        assert clock.lap()["device"] == 4
    assert clock.elapsed() == 8


def test_a_part_that_ends_in_an_error_is_counted():
    time = Time()
    clock = run_log.StepTimer(time)
    part = clock.measure("checkpoint")
    with contextlib.suppress(ZeroDivisionError), part:
        time.spend(2)
        raise ZeroDivisionError
    assert clock.lap()["checkpoint"] == 2


def test_the_real_clock_goes():
    clock = run_log.StepTimer()
    laps = [sum(clock.lap().values()) for _ in range(3)]
    assert min(laps) >= 0
    assert clock.elapsed() >= sum(laps)
