"""Golden Inception: generated weights and images, and the outputs of other programs.

tests/golden/inception.npz holds what two PyTorch programs made of the pictures with the
weights given here: pytorch-fid's network ("pytorch_fid/...") and that of
torch-fidelity, which resizes as TensorFlow 1 does ("tf1/..."). Of each the pool
features, the first 7 channels after Mixed_6d's branch1x1 with channels last, and pool
times fc.weight; float32, on a CPU.
"""

from __future__ import annotations

import functools
import pathlib
import zlib

import numpy as np

from glide_jax.convert import inception

FILE = pathlib.Path(__file__).parents[1] / "golden" / "inception.npz"
SIDES = (64, 256)  # of the pictures, two each


def weight(name, shape):
    """The golden value of a PyTorch tensor; activations stay of the order of 1."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    draw = random.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(np.float32(0.2) * draw)
    if len(shape) >= 2:
        return draw * np.sqrt(np.float32(2 / np.prod(shape[1:])))
    return np.float32(name.endswith("bn.weight")) + np.float32(0.1) * draw


@functools.cache
def state_dict():
    """Every tensor that the network reads, by its PyTorch name."""
    return {
        name: weight(name, shape) for name, shape in inception.torch_shapes().items()
    }


@functools.cache
def params():
    """The golden network as a parameter tree."""
    return inception.from_torch(state_dict())


def pictures(px):
    """Two pictures of waves and a fine pattern, uint8 (2, px, px, 3)."""
    image = np.arange(2)[:, None, None, None]
    y, x = np.arange(px)[:, None, None], np.arange(px)[:, None]
    channel = np.arange(3)
    turn = 2 * np.pi / px
    wave = (
        np.sin(turn * (1 + image + channel) * x + image)
        + np.cos(turn * (2 + channel) * y * (1 + image) + channel)
        + np.sin(turn * (x * y % 7))
    )
    return np.clip(np.round(127.5 + 42 * wave), 0, 255).astype(np.uint8)


def answers(resizing, px):
    """What the other program made of `pictures(px)`: (pool, spatial, logits)."""
    with np.load(FILE) as stored:
        names = (f"{resizing}/{part}{px}" for part in ("pool", "spatial", "logits"))
        return tuple(stored[name] for name in names)
