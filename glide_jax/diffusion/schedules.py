"""Betas of the named noise schedules, in float64 on the host.

1. `linear` (DDPM, 2006.11239, section 4), stretched so that any chain length ends as
   noisy: betas evenly spaced from 1000/T * 1e-4 to 1000/T * 0.02.
2. `squaredcos_cap_v2` (Improved DDPM, 2102.09672, eq. 17):
   beta_i = min(1 - f((i + 1) / T) / f(i / T), 0.999),
   f(u) = cos^2((u + 0.008) / 1.008 * pi / 2).

GLIDE's 64 px models and the noised CLIP use 2, its upsamplers use 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from glide_jax.errors import UserError


def make_betas(name: str, num_timesteps: int) -> np.ndarray:
    """Betas of a named schedule, shape (num_timesteps,), float64, each in (0, 1).

    Raises:
      UserError: unknown name, or a chain too short for the schedule.
    """
    if name not in SCHEDULES:
        raise UserError(
            f"schedule={name!r} is not a known noise schedule; "
            f"use one of {', '.join(sorted(SCHEDULES))}"
        )
    if num_timesteps < 1:
        raise UserError(
            f"num_timesteps={num_timesteps} must be at least 1; GLIDE uses 1000"
        )
    betas = SCHEDULES[name](num_timesteps)
    if betas.max() >= 1:
        raise UserError(
            f"num_timesteps={num_timesteps} drives {name} betas to {betas.max():.3g}, "
            "and they must stay below 1; use at least 21 timesteps"
        )
    return betas


def _linear(num_timesteps: int) -> np.ndarray:
    """Eq. 1."""
    scale = 1000 / num_timesteps
    return np.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=np.float64)


def _squaredcos_cap_v2(num_timesteps: int) -> np.ndarray:
    """Eq. 2; 0.008 and 0.999 are Improved DDPM's (section 3.2)."""

    def signal(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array(
        [
            min(1 - signal((i + 1) / num_timesteps) / signal(i / num_timesteps), 0.999)
            for i in range(num_timesteps)
        ],
        dtype=np.float64,
    )


# An entry may be added but never changed: released weights depend on its numbers.
SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": _linear,
    "squaredcos_cap_v2": _squaredcos_cap_v2,
}
