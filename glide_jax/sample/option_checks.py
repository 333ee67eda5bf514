"""Checks of option values, with one-line errors; imports no JAX."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from glide_jax.config import defaults
from glide_jax.diffusion import samplers
from glide_jax.errors import UserError

# The largest timestep that a network sees: intervals are on the training chain.
LAST_TIMESTEP = 999
# Programs compute in float32, where a larger number is infinite.
_MAX_FLOAT32 = 3.4028234e38


def resolve(default: defaults.SampleConfig, **given: Any) -> defaults.SampleConfig:
    """Returns a bundle's settings with the given ones that are not None.

    Raises:
      UserError: an eta that the sampler does not read.
    """
    given = {name: value for name, value in given.items() if value is not None}
    resolved = dataclasses.replace(default, **given)
    if samplers.find_sampler(resolved.sampler).uses_eta:
        return resolved
    if given.get("eta"):
        raise UserError(
            f"eta={resolved.eta} has no effect with sampler={resolved.sampler}; give "
            "sampler=ddim, or leave eta out"
        )
    # The bundle's eta may be for another sampler.
    return dataclasses.replace(resolved, eta=0.0)


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises UserError unless the value is one of the known ones."""
    if value not in known:
        raise UserError(f"{name}={value!r} is not one of {', '.join(known)}")


def check_number(name: str, value: Any, least: float | int, most: float | int) -> None:
    """Raises UserError unless the value is a finite number in the range."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise UserError(f"{name}={value!r} is not a number; give a number")
    if not least <= float(value) <= min(most, _MAX_FLOAT32):
        rule = f"{least} to {most}"
        if most == math.inf:
            rule = f"a finite number of at least {least}"
        raise UserError(f"{name}={value} is out of range; give {rule}")


def check_whole(name: str, value: Any, least: float | int, most: float | int) -> None:
    """Raises UserError unless the value is a whole number in the range."""
    check_number(name, value, least, most)
    if value != int(value):
        raise UserError(f"{name}={value} is not a whole number; give a whole number")


def check_interval(name: str, interval: Any) -> None:
    """Raises UserError unless the value is an interval of timesteps."""
    is_pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not is_pair or not all(isinstance(t, numbers.Real) for t in interval):
        raise UserError(f"{name}={interval!r}; give two timesteps, (first, last)")
    if (
        not 0 <= interval[0] <= interval[1] <= LAST_TIMESTEP
        or int(interval[0]) != interval[0]
        or int(interval[1]) != interval[1]
    ):
        raise UserError(
            f"{name}={interval} is not an interval of timesteps; give two whole "
            f"numbers, the smaller first, from 0 to {LAST_TIMESTEP}"
        )
