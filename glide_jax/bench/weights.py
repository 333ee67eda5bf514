"""Random weights for benchmarks, without zeros.

Layers that are initialized to zero would falsify times: a compiler may remove
multiplications by zero, and some processors slow down on denormal results.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from glide_jax import array_types
from glide_jax.config.defaults import ModelConfig
from glide_jax.models import build

EMBEDDING_STD = 0.02
SMALL_STD = 0.1  # of biases, and of gains around 1


def random_params(config: ModelConfig, seed: int = 0) -> array_types.Params:
    """Returns random float32 parameters of a model, on the default device.

    Kernels preserve the variance of their input, so that activations stay in range.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        # At least one dimension, since numpy turns 0-d arrays into scalars.
        unit = rng.standard_normal(leaf.shape or (1,), np.float32)
        return jax.device_put(_scaled(path[-1].key, unit).reshape(leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, build.abstract_params(config))


def _scaled(name: str, unit: np.ndarray) -> np.ndarray:
    if name == "kernel":
        # (3, 3, in, out) or (in, out); stacked layers have one leading dimension.
        fan_in = math.prod(unit.shape[:-1] if unit.ndim == 4 else unit.shape[-2:-1])
        return unit * np.float32(fan_in**-0.5)
    if name == "scale":
        return 1 + np.float32(SMALL_STD) * unit
    return unit * np.float32(SMALL_STD if name == "bias" else EMBEDDING_STD)
