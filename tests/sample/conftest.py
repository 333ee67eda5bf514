"""Models of 8 and 16 px with random weights, big enough to show every law."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve
from glide_jax.models import build
from glide_jax.sample import restore
from glide_jax.text import sentencepiece_tokenizer, tokenizers

CAPTIONS = [f"a {size} {hue} circle" for size in ("big", "small") for hue in "rgb"]

BASE = defaults.Text2ImConfig(
    image_px=8,
    num_channels=32,
    channel_mult=(1,),  # one level: half the compilation, and the laws are the same
    num_res_blocks=1,
    attention_px=(8,),
    head_channels=32,
    dropout_prob=0.0,
    text_context=8,
    vocab_size=384,
    text_width=32,
    text_layers=1,
    text_heads=2,
    compute_dtype="float32",
)
UPSAMPLER = dataclasses.replace(BASE, image_px=16, low_res_px=8, attention_px=(16,))
CLIP = defaults.NoisedClipConfig(
    image_px=8,
    patch_px=4,
    image_width=32,
    image_layers=1,
    image_heads=2,
    text_context=8,
    vocab_size=384,
    text_width=32,
    text_layers=1,
    text_heads=2,
    embed_dim=16,
    compute_dtype="float32",
)
SIZES = {
    "base": BASE,
    "upsampler": UPSAMPLER,
    "clip": CLIP,
    "base_inpaint": dataclasses.replace(BASE, inpaint=True),
    "upsampler_inpaint": dataclasses.replace(UPSAMPLER, inpaint=True),
}


@pytest.fixture(scope="session")
def tokenizer():
    proto = sentencepiece_tokenizer.train_sentencepiece(CAPTIONS, 300)
    return sentencepiece_tokenizer.SentencePieceTokenizer(proto)


@pytest.fixture(scope="session")
def models(tokenizer) -> dict[str, restore.SampleModel]:
    """By the names of SIZES; they keep 4 timesteps by default."""
    return {name: _make_model(name, tokenizer) for name in SIZES}


@pytest.fixture(scope="session")
def bundles(models, tmp_path_factory) -> dict[str, pathlib.Path]:
    """The same models as folders."""
    root = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(root / name, model) for name, model in models.items()}


def write_bundle(folder, model, **options) -> pathlib.Path:
    """`model` as a bundle in `folder`."""
    scratch = folder.parent / "tokenizer"
    tokenizers.save(model.tokenizer, scratch)
    files = {path.name: path.read_bytes() for path in scratch.iterdir()}
    text = resolve.to_json(model.config)
    bundle.write_bundle(folder, model.params, text, files, "A test model.", **options)
    return folder


def _make_model(name: str, tokenizer) -> restore.SampleModel:
    size = SIZES[name]
    config = defaults.Config(
        name=name, model=size, sample=defaults.SampleConfig(respacing="4")
    )
    is_clip = isinstance(size, defaults.NoisedClipConfig)
    fns = (build.make_clip if is_clip else build.make_denoiser)(size)
    params = _randomise(jax.eval_shape(fns.init, jax.random.key(0)))
    return restore.SampleModel(
        config, fns, params, tokenizer, pathlib.Path(f"bundles/{name}")
    )


def _randomise(shapes):
    """Weights without the zeros of initialisation, which would hide the caption."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        scale = fan_in**-0.5 if leaf.ndim > 1 else 0.1
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)
