"""Small states of every kind of array, and folders that hold them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax.checkpoint import store


def make_items(scale: float = 1.0) -> dict[str, Any]:
    """Items of several dtypes and ranks."""
    rng = np.random.default_rng(int(scale))
    kernel = jnp.asarray(rng.normal(size=(8, 6)), jnp.float32)
    return {
        "params": {
            "conv": {"kernel": kernel},
            "norm": {"bias": jnp.ones(3, jnp.bfloat16) * scale},
        },
        "ema_params": {"0.999": {"conv": {"kernel": kernel / 2}}},
        "counters": {"step": jnp.int32(scale), "log2_scale": jnp.float32(1.5)},
    }


def abstract(items: Any) -> Any:
    """Shapes and dtypes of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), items)


def write(folder: pathlib.Path, *steps: int, **options: Any) -> pathlib.Path:
    """A folder that holds these steps, each the items of its number."""
    with store.CheckpointStore(folder, **options) as writer:
        for step in steps:
            writer.save(step, make_items(step), {"step": step}, {"loss": 1 / step})
    return folder


def is_equal(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Same structure, dtypes and bits."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )
