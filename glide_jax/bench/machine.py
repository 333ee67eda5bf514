"""Describes this machine and measures its peak rates.

Peaks are measured rather than taken from data sheets, so that clock rates, power limits
and other programs affect them and the measured programs equally.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version

import glide_jax
from glide_jax.bench import timing
from glide_jax.models import convolutions

# Sides of the square products: large enough to be fast, small enough for the machine.
_MATMUL_SIDES = {"cpu": (512, 1024, 2048), "default": (4096, 8192)}
PEAK_REPEATS = 10  # the fastest run counts
# Images of 64 px and 192 channels, the first level of the released base model.
_CONV_BATCH = {"cpu": 2, "default": 64}
_CONV_PX, _CONV_CHANNELS = 64, 192


def describe() -> dict[str, Any]:
    """Returns devices, cores and versions as JSON values."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cpu_cores": cpu_cores(),
        "glide_jax": glide_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "python": platform.python_version(),
    }


def cpu_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def matmul_peak(dtype: str) -> float:
    """Measures the FLOP/s of the fastest of several square products in `dtype`."""
    return max(_matmul_rate(side, dtype) for side in _for_platform(_MATMUL_SIDES))


def conv_peak(dtype: str) -> float:
    """Measures the FLOP/s of a typical 3x3 convolution of the U-Net in `dtype`."""
    batch, px, channels = _for_platform(_CONV_BATCH), _CONV_PX, _CONV_CHANNELS
    x = jnp.ones((batch, px, px, channels), dtype)
    kernel = jnp.ones((3, 3, channels, channels), dtype)
    flops = 2 * batch * px**2 * 9 * channels**2
    return flops / _fastest(convolutions.native_conv3x3, x, kernel)


def peak_memory_bytes() -> int | None:
    """Returns the peak memory use of the first device; None if not reported."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def _matmul_rate(side: int, dtype: str) -> float:
    # Random numbers: with constants a chip draws less power and clocks higher.
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    matrix = matrix.astype(dtype)
    return 2 * side**3 / _fastest(jnp.dot, matrix, matrix)


def _fastest(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Returns the seconds of the fastest run."""
    program, _ = timing.compile_program(function, *arguments)
    return min(timing.time_calls(program, *arguments, repeats=PEAK_REPEATS))


def _for_platform(by_platform: dict[str, Any]) -> Any:
    return by_platform.get(jax.default_backend(), by_platform["default"])
