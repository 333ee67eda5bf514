"""Runs small enough for tests: 8 px pictures of the embedded world, one level."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from glide_jax.config import defaults, resolve
from glide_jax.data import sources
from glide_jax.text import sentencepiece_tokenizer, tokenizers

TEXT2IM = defaults.Text2ImConfig(
    image_px=8,
    num_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_px=(),  # the middle block attends
    head_channels=32,
    dropout_prob=0.0,
    text_context=8,
    vocab_size=320,
    text_width=32,
    text_layers=1,
    text_heads=2,
    compute_dtype="float32",
)
CLIP = defaults.NoisedClipConfig(
    image_px=8,
    patch_px=4,
    image_width=32,
    image_layers=1,
    image_heads=2,
    text_context=8,
    vocab_size=320,
    text_width=32,
    text_layers=1,
    text_heads=2,
    embed_dim=16,
    compute_dtype="float32",
)


def write_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """A tokenizer of 300 pieces for the captions of the embedded world."""
    world = sources.open_source("shapes:quickstart")
    captions = sources.sample_captions(world, 200)
    proto = sentencepiece_tokenizer.train_sentencepiece(captions, 300)
    tokenizers.save(sentencepiece_tokenizer.SentencePieceTokenizer(proto), folder)
    return folder


def make_config(
    tokenizer: pathlib.Path,
    model: defaults.ModelConfig = TEXT2IM,
    changes: Mapping[str, Any] | None = None,
) -> defaults.Config:
    """Settings of a run of 4 steps of 4 pictures, with dotted paths replaced."""
    config = defaults.Config(name="small", model=model)
    return resolve.override(
        config,
        {
            "data.sources": ("shapes:quickstart",),
            "data.tokenizer": str(tokenizer),
            "data.num_threads": 1,
            "train.num_steps": 4,
            "train.global_batch_size": 4,
            "ema.decays": (0.9, 0.5),
            "log.every_steps": 1,
            **(changes or {}),
        },
    )


def write_experiment(path: pathlib.Path, config: defaults.Config) -> pathlib.Path:
    """An experiment file, as `glide train --config` takes it, of these settings."""
    path.write_text(
        "from glide_jax.config import resolve\n"
        f"TEXT = {resolve.to_json(config)!r}\n"
        "def get_config():\n"
        "    return resolve.to_config_dict(resolve.from_json(TEXT))\n"
    )
    return path


def make_batch(rows: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise pictures and random captions for the models here."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.uniform(-1, 1, (rows, 8, 8, 3)).astype(np.float32),
        "tokens": rng.integers(1, 300, (rows, 8)).astype(np.int32),
        "text_mask": rng.random((rows, 8)) < 0.8,
        "example_index": np.arange(rows, dtype=np.int32),
    }


def assert_trees_equal(left: Any, right: Any) -> None:
    """Same structure and the same bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)
