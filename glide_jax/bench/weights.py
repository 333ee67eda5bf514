"""Weights to time a model with: seeded, of a trained model's size, and none zero.

Layers that training starts at zero would hide work: a compiler may leave out what a
zero is multiplied with, and some processors slow down on what comes of it.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from glide_jax import array_types
from glide_jax.config.defaults import ModelConfig
from glide_jax.models import build

EMBEDDING_STD = 0.02
SMALL_STD = 0.1  # of biases, and of gains around 1


def random_params(config: ModelConfig, seed: int = 0) -> array_types.Params:
    """A parameter tree of the model, float32, on the default device.

    Kernels keep the variance of their input, so that activations stay in range.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf) -> jax.Array:
        # At least one dimension, or numpy would make numbers of arrays.
        unit = rng.standard_normal(leaf.shape or (1,), np.float32)
        return jax.device_put(_scaled(path[-1].key, unit).reshape(leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, build.abstract_params(config))


def _scaled(name: str, unit: np.ndarray) -> np.ndarray:
    if name == "kernel":
        # (3, 3, in, out) or (in, out); stacked layers lead with their number.
        fan_in = math.prod(unit.shape[:-1] if unit.ndim == 4 else unit.shape[-2:-1])
        return unit * np.float32(fan_in**-0.5)
    if name == "scale":
        return 1 + np.float32(SMALL_STD) * unit
    return unit * np.float32(SMALL_STD if name == "bias" else EMBEDDING_STD)
