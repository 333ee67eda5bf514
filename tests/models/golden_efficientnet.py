"""Golden EfficientNet-Lite0: generated weights, pictures, and PyTorch's outputs.

tests/golden/efficientnet_lite0.npz holds what the network of the Python package
efficientnet-lite-pytorch 0.1.0 made of the pictures: with the weights given here
("drawn/...") and with the published ones ("published/..."). Of each the pool features
and the logits; float32, on a CPU.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from glide_jax.convert import efficientnet
from glide_jax.models import efficientnet as network
from tests.models import golden_inception

FILE = pathlib.Path(__file__).parents[1] / "golden" / "efficientnet_lite0.npz"


@functools.cache
def state_dict():
    """Every tensor that the network reads, by its PyTorch name."""
    shapes = efficientnet.torch_shapes()
    return {name: weight(name, shape) for name, shape in shapes.items()}


def weight(name, shape):
    """The golden value of a PyTorch tensor, spread so that ReLU6 cuts at both ends."""
    drawn = golden_inception.weight(name, shape)
    is_norm = "_bn" in name and name.endswith(".weight")
    return drawn + np.float32(1) if is_norm else drawn


@functools.cache
def params():
    """The golden network as a parameter tree."""
    return efficientnet.from_torch(state_dict())


def pictures():
    """Two pictures of the side that the network reads."""
    return golden_inception.pictures(network.PX)


def answers(weights):
    """What PyTorch made of `pictures()`: (pool, logits)."""
    with np.load(FILE) as stored:
        return tuple(stored[f"{weights}/{part}"] for part in ("pool", "logits"))
