"""The allowed words of settings.

A choice that is a registry of a module that imports JAX is a function, which reads it
on use.
"""

from __future__ import annotations

from collections.abc import Iterable

DTYPES = ("float32", "bfloat16", "float16")
CORRUPTIONS = ("none", "blur", "noise", "quantise")
TIMESTEP_SAMPLINGS = ("uniform", "loss_second_moment", "power")
REMAT_POLICIES = ("none", "dots", "blocks", "full", "offload")
OPTIMIZERS = ("adamw", "adafactor", "lion")
MOMENTS_DTYPES = ("float32", "bfloat16")
STUDENT_LOSSES = ("halve", "match_moments")
LEARNING_RATE_SCHEDULES = ("constant", "cosine", "linear")


def noise_schedules() -> Iterable[str]:
    """Returns the names of the noise schedules."""
    from glide_jax.diffusion import schedules

    return schedules.SCHEDULES


def predictions() -> Iterable[str]:
    """Returns the names of what a network can predict."""
    from glide_jax.diffusion import process

    return process.PREDICTIONS


def loss_types() -> Iterable[str]:
    """Returns the names of the losses."""
    from glide_jax.diffusion import losses

    return losses.LOSS_TYPES


def loss_weightings() -> Iterable[str]:
    """Returns the names of the weightings of the squared error."""
    from glide_jax.diffusion import losses

    return losses.WEIGHTINGS


def samplers() -> Iterable[str]:
    """Returns the names of the samplers."""
    from glide_jax.diffusion import samplers

    return samplers.SAMPLERS


# Predictions whose output has an x_start, to which model.residual_low_res can add.
WITH_X_START = ("x", "x_and_eps")
