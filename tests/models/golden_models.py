"""Golden models: tiny sizes, weights generated from their names, stored outputs."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import zlib

import jax
import numpy as np

from glide_jax.config.defaults import NoisedClipConfig, Text2ImConfig
from glide_jax.convert import torch_glide
from glide_jax.models import build

FOLDER = pathlib.Path(__file__).parents[1] / "golden"

BASE = Text2ImConfig(
    image_px=16,
    num_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_px=(16, 8),
    head_channels=16,
    dropout_prob=0.0,
    text_context=12,
    vocab_size=97,
    text_width=64,
    text_layers=2,
    text_heads=2,
    compute_dtype="float32",
)
UPSAMPLE = dataclasses.replace(BASE, image_px=32, low_res_px=8, attention_px=(32, 16))
CLIP = NoisedClipConfig(
    image_px=16,
    patch_px=4,
    image_width=32,
    image_layers=2,
    image_heads=2,
    text_context=12,
    vocab_size=97,
    text_width=32,
    text_layers=2,
    text_heads=2,
    embed_dim=24,
    compute_dtype="float32",
)
CONFIGS = {
    "base": BASE,
    "base-inpaint": dataclasses.replace(BASE, inpaint=True),
    "upsample": UPSAMPLE,
    "upsample-inpaint": dataclasses.replace(UPSAMPLE, inpaint=True),
    "clip-image": CLIP,
    "clip-text": CLIP,
}
_EMBEDDINGS = (
    "token_embedding.weight",
    "positional_embedding",
    "padding_embedding",
    "w_voc",
    "w_pos",
    "w_t",
)


@functools.cache
def arrays():
    """The stored arrays by name."""
    with np.load(FOLDER / "tiny.npz") as stored:
        return dict(stored)


@functools.cache
def keys():
    """PyTorch names and shapes by model, and the gradients' norms."""
    return json.loads((FOLDER / "tiny_keys.json").read_text())


def weight(name, shape):
    """The golden value of a PyTorch tensor."""
    seed = zlib.crc32(name.encode()) % 2**32
    draw = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if name.endswith(_EMBEDDINGS):
        return np.float32(0.5) * draw
    if len(shape) >= 2:
        return (draw / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if name.rsplit(".", 1)[-1] in ("weight", "g"):
        return (1 + 0.1 * draw).astype(np.float32)
    return (0.1 * draw).astype(np.float32)


def state_dict(kind):
    """Every PyTorch tensor of a golden model."""
    shapes = keys()[kind.replace("-", "_")]
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}


@functools.cache
def params(kind):
    """The golden model as a parameter tree."""
    return torch_glide.from_torch(kind, CONFIGS[kind], state_dict(kind))


def inputs(name, dtype=np.float32):
    """An input array, integers as int32."""
    return arrays()[f"in/{name}"].astype(dtype)


def error(actual, expected):
    """max |a - b| / max(1, max |b|), the golden files' own measure."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / max(1.0, np.abs(expected).max())


@functools.cache
def denoiser(kind):
    """(jitted encode, jitted denoise) of a golden U-Net."""
    fns = build.make_denoiser(CONFIGS[kind])
    return jax.jit(fns.encode), jax.jit(fns.denoise)


def caption():
    """(tokens, text_mask) of the golden inputs."""
    return inputs("tokens", np.int32), inputs("mask", bool)


def pictures(kind):
    """The picture conditions that a golden U-Net reads."""
    config, read = CONFIGS[kind], {}
    if config.low_res_px:
        read["low_res"] = inputs("low_res8")
    if config.inpaint:
        read["inpaint_image"] = inputs(f"image{config.image_px}")
        read["inpaint_mask"] = inputs(f"mask{config.image_px}")
    return read


def clip_params(logit_scale=100.0):
    """The golden CLIP; the released one has a fixed logit scale of 100."""
    return {
        "image": params("clip-image"),
        "text": params("clip-text"),
        "logit_scale": np.float32(np.log(logit_scale)),
    }
