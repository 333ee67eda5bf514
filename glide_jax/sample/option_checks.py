"""Checks of option values, with one-line errors."""

from __future__ import annotations

import dataclasses
import math
import numbers

import numpy as np

from glide_jax.config import defaults
from glide_jax.diffusion import samplers
from glide_jax.errors import UserError

# The largest timestep that a network sees: intervals are on the training chain.
LAST_TIMESTEP = 999


def resolve(default: defaults.SampleConfig, **given) -> defaults.SampleConfig:
    """Returns the bundle's settings with those given, checked; None is not given."""
    given = {name: value for name, value in given.items() if value is not None}
    resolved = dataclasses.replace(default, **given)
    for name in ("guidance_scale", "clip_guidance_scale", "noise_temperature"):
        check_number(name, getattr(resolved, name), 0, math.inf)
    check_number("eta", resolved.eta, 0, 1)
    sampler = samplers.SAMPLERS.get(resolved.sampler)
    if sampler is None or sampler.uses_eta:
        return resolved
    if given.get("eta"):
        raise UserError(
            f"eta={resolved.eta} has no effect with sampler={resolved.sampler}; give "
            "sampler=ddim, or leave eta out"
        )
    # A bundle may carry one for the sampler that was not chosen.
    return dataclasses.replace(resolved, eta=0.0)


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises UserError unless the value is one of the known ones."""
    if value not in known:
        raise UserError(f"{name}={value!r} is not one of {', '.join(known)}")


def check_number(
    name: str, value: object, least: float | int, most: float | int
) -> None:
    """Raises UserError unless the value is a finite number in the range."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise UserError(f"{name}={value!r} is not a number")
    # In float32, as the program has it, 1e50 is infinite.
    if not np.isfinite(np.float32(value)) or not least <= value <= most:
        rule = f"{least} to {most}"
        if most == math.inf:
            rule = f"a finite number of at least {least}"
        raise UserError(f"{name}={value} is out of range; give {rule}")


def check_interval(name: str, interval: object) -> None:
    """Raises UserError unless the value is an interval of timesteps."""
    is_pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not is_pair or not all(isinstance(t, numbers.Real) for t in interval):
        raise UserError(f"{name}={interval!r}; give two timesteps, (first, last)")
    if (
        any(t != t or t in (math.inf, -math.inf) or t != int(t) for t in interval)
        or not 0 <= interval[0] <= interval[1] <= LAST_TIMESTEP
    ):
        raise UserError(
            f"{name}={interval} is not an interval of timesteps; give two numbers, the "
            f"smaller first, from 0 to {LAST_TIMESTEP}"
        )
