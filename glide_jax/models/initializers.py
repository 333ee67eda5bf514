"""What does every parameter start as?

A layer only describes its parameters' distributions; `draw_params` then draws them all.
Drawing each parameter where it is declared would put hundreds of random generators into
one program; compiling that took a CPU 22 s for a U-Net of 251 tensors, this way 3 s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from glide_jax import array_types

# Numbers in a parameter up to which it shares a generator with the others.
POOLED_SIZE = 2**20


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Uniform in +-scale, normal of deviation scale, or constantly scale.

    As a Flax initialiser it yields zeros that carry this description.
    """

    kind: str  # "uniform", "normal" or "constant"
    scale: float

    def __call__(self, key, shape, dtype=jnp.float32):
        del key
        return Described(jnp.zeros(shape, dtype), self)


class Described(flax.struct.PyTreeNode, nn.meta.AxisMetadata):
    """A parameter's shape with its distribution; Flax strips it where it is used."""

    value: Any
    distribution: Distribution = flax.struct.field(pytree_node=False)

    def unbox(self):
        """The array."""
        return self.value

    def replace_boxed(self, val):
        """The same description of another array."""
        return self.replace(value=val)

    def add_axis(self, index, params):
        """Stacked layers are alike: the description stays."""
        del index, params
        return self

    remove_axis = add_axis


# fan_in -> (distribution of the kernel, of the bias)
LayerInit = Callable[[int], tuple[Distribution, Distribution]]
ZEROS = Distribution("constant", 0.0)
ONES = Distribution("constant", 1.0)


def torch_init(fan_in: int) -> tuple[Distribution, Distribution]:
    """PyTorch's default: weight and bias uniform in +-1/sqrt(fan_in).

    guided-diffusion trains from it, so it is the origin of every published figure.
    """
    uniform = Distribution("uniform", fan_in**-0.5)
    return uniform, uniform


def zero_init(fan_in: int) -> tuple[Distribution, Distribution]:
    """Zeros: the layer that closes a residual branch starts as no branch at all."""
    del fan_in
    return ZEROS, ZEROS


def normal_init(std: float) -> LayerInit:
    """Weights from N(0, std^2), biases zero."""

    def layer_init(fan_in: int) -> tuple[Distribution, Distribution]:
        del fan_in
        return Distribution("normal", std), ZEROS

    return layer_init


def draw_params(
    key: array_types.PRNGKey, described: array_types.Params
) -> array_types.Params:
    """Parameters drawn from the descriptions in a tree of `Described` shapes."""
    leaves, tree = jax.tree.flatten(
        described, is_leaf=lambda leaf: isinstance(leaf, Described)
    )
    units: list[jax.Array | None] = [None] * len(leaves)
    for kind, kind_key in zip(
        ("uniform", "normal"), jax.random.split(key), strict=True
    ):
        places = [i for i, leaf in enumerate(leaves) if leaf.distribution.kind == kind]
        shapes_of_kind = [leaves[place].value.shape for place in places]
        drawn = _draw_units(_UNIT_DRAWS[kind], kind_key, shapes_of_kind)
        for place, unit in zip(places, drawn, strict=True):
            units[place] = unit
    scaled = [
        jnp.full(leaf.value.shape, leaf.distribution.scale)
        if unit is None
        else unit * leaf.distribution.scale
        for leaf, unit in zip(leaves, units, strict=True)
    ]
    return jax.tree.unflatten(tree, scaled)


_UNIT_DRAWS = {
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1, maxval=1),
    "normal": jax.random.normal,
}


def _draw_units(draw, key, shapes_of_kind) -> Iterator[jax.Array]:
    """One array a shape, of unit scale: large ones alone, the others out of a pool."""
    sizes = [math.prod(shape) for shape in shapes_of_kind]
    pool = draw(key, (sum(size for size in sizes if size <= POOLED_SIZE),))
    start = 0
    for index, (shape, size) in enumerate(zip(shapes_of_kind, sizes, strict=True)):
        if size > POOLED_SIZE:
            yield draw(jax.random.fold_in(key, index), shape)
        else:
            yield pool[start : start + size].reshape(shape)
            start += size
