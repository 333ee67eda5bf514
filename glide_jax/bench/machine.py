"""What is this machine, and how fast is it at best?

The peaks are measured, not looked up: a clock, a power limit or a neighbour on the same
processor counts here as it counts in what is compared with them.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

import glide_jax
from glide_jax.bench import timing
from glide_jax.models import layers

# Sides of the square products: large enough to be fast, small enough for the machine.
_MATMUL_SIDES = {"cpu": (512, 1024, 2048), "default": (4096, 8192)}
PEAK_REPEATS = 10  # the best of so many
# Pictures of 64 px and 192 channels, the first level of the released base model.
_CONV_BATCH = {"cpu": 2, "default": 64}
_CONV_PX, _CONV_CHANNELS = 64, 192


def describe() -> dict[str, Any]:
    """Device, count and versions, as JSON values."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cpu_cores": cpu_cores(),
        "glide_jax": glide_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
    }


def cpu_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def matmul_peak(dtype: str) -> float:
    """FLOP/s of the fastest of several square matrix products in `dtype`."""
    return max(_matmul_rate(side, dtype) for side in _here(_MATMUL_SIDES))


def conv_peak(dtype: str) -> float:
    """FLOP/s of a 3x3 convolution as the U-Net has many of."""
    batch, px, channels = _here(_CONV_BATCH), _CONV_PX, _CONV_CHANNELS
    x = jnp.ones((batch, px, px, channels), dtype)
    kernel = jnp.ones((3, 3, channels, channels), dtype)
    flops = 2 * batch * px**2 * 9 * channels**2
    return flops / _fastest(layers.conv3x3, x, kernel)


def peak_memory_bytes() -> int | None:
    """The most that this process has held on its first device; None: not told."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def _matmul_rate(side: int, dtype: str) -> float:
    # Random numbers: of equal ones a chip draws less power, and clocks higher.
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    matrix = matrix.astype(dtype)
    return 2 * side**3 / _fastest(jnp.dot, matrix, matrix)


def _fastest(function, *arguments) -> float:
    program, _ = timing.compile_program(function, *arguments)
    return min(timing.time_calls(program, *arguments, repeats=PEAK_REPEATS))


def _here(by_platform):
    return by_platform.get(jax.default_backend(), by_platform["default"])
