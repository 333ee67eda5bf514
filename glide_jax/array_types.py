"""Array types of signatures; letters are the axes of the glossary.

b batch, h w c image (NHWC), l text positions, d width, k table entries. The types of
public functions accept jax and numpy arrays; those of Flax modules accept jax arrays
only. The test suite checks them at run time; elsewhere they are documentation.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key

Array = jax.Array | np.ndarray

Image = Float[Array, "b h w c"]
PerExample = Float[Array, "b"]
Scalar = Float[Array, ""] | float | int
Tokens = Int[Array, "b l"]
TextMask = Bool[Array, "b l"]
Timesteps = Int[Array, "b"]
TextSequence = Float[Array, "b l d"]
Features = Float[Array, "b d"]
Table = Float[Array, "k"]
PRNGKey = Key[jax.Array, ""]
PRNGKeys = Key[jax.Array, "b"]
# Nested dicts of arrays, as returned by Flax Linen.
Params = dict[str, Any]
# jax.Device: jaxlib has no stubs, so type checkers do not accept it as a type.
Device = Any

# Activations inside a network, any floating dtype.
FeatureMap = Float[jax.Array, "b h w c"]
Sequence = Float[jax.Array, "b l d"]
Embedding = Float[jax.Array, "b d"]
