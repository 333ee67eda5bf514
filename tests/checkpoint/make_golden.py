"""Writes the golden checkpoint: python -m tests.checkpoint.make_golden

Made once, by the version that first had the format, and never again: every later
version has to restore it.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from glide_jax.checkpoint import store

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "checkpoint"
STEP = 7
META = {"config_digest": "ab" * 32, "tokenizer_digest": "cd" * 32}
METRICS = {"validation/loss": 0.125}


class Moments(NamedTuple):
    """Looks like a part of an optimizer's state."""

    count: Any
    mu: Any
    nu: Any


def make_items() -> dict[str, Any]:
    """A state with every kind of array and container that a training state has."""
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7 - 1
    params = {"unet": {"conv_in": {"kernel": jnp.asarray(kernel)}}}
    half = {"unet": {"conv_in": {"kernel": jnp.asarray(kernel, jnp.bfloat16)}}}
    return {
        "params": params,
        "ema_params": {"0.999": params, "0.9999": half},
        "opt_state": ({}, Moments(jnp.int32(5), half, params)),
        "resampler": {
            "history": jnp.asarray(np.geomspace(1e-30, 1e30, 12).reshape(3, 4)),
            "is_full": jnp.asarray([True, False, True]),
            "codes": jnp.asarray([0, 255], jnp.uint8),
        },
        "counters": {"step": jnp.int32(STEP), "log2_loss_scale": jnp.float32(-0.0)},
    }


if __name__ == "__main__":
    with store.CheckpointStore(FOLDER) as writer:
        writer.save(STEP, make_items(), META, METRICS)
