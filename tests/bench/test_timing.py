"""Times of a program and their statistics."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax.bench import machine, timing


def test_a_spread_is_the_median_with_both_ends():
    spread = timing.spread([3.0, 1.0, 2.0, 9.0, 2.5])
    assert (spread.median, spread.min, spread.max) == (2.5, 1.0, 9.0)
    assert spread.per(2).to_json() == {"median": 1.25, "min": 0.5, "max": 4.5}


def test_values_are_rounded_to_four_digits():
    assert timing.rounded(0.00123456) == 0.001235
    assert timing.rounded(123456.0) == 123500.0


def test_every_run_is_timed_but_the_first():
    waits = iter([0.3, 0.02, 0.02, 0.02])

    def program():
        time.sleep(next(waits))
        return jnp.zeros(())

    seconds = timing.time_calls(program, repeats=3)
    assert len(seconds) == 3
    # The first, of 0.3 s, warms up; a busy machine adds less than that to the others.
    assert 0.02 <= min(seconds) < 0.3


def test_a_program_is_compiled_before_it_is_run():
    traced = []

    def double(x):
        traced.append(x)
        return 2 * x

    program, seconds = timing.compile_program(double, jnp.arange(3))
    np.testing.assert_array_equal(program(jnp.arange(3)), [0, 2, 4])
    assert len(traced) == 1
    assert seconds > 0


def test_the_machine_is_described_by_what_it_runs():
    described = machine.describe()
    assert described["platform"] == jax.default_backend()
    assert described["devices"] == 1
    assert described["cpu_cores"] >= 1
    assert described["jax"] == jax.__version__
