"""Model sizes: tiny (quickstart), icons (small real data), released, paper.

The values of `released` and `paper` are published; inferred values are marked.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from glide_jax.config.defaults import NoisedClipConfig, Text2ImConfig
from glide_jax.errors import UserError

T = TypeVar("T")

SIZES = ("tiny", "icons", "released", "paper")
# Those with experiment files of students of few steps.
STUDENT_SIZES = ("tiny", "released", "paper")

_BASE = {
    "tiny": Text2ImConfig(
        image_px=16,
        num_channels=16,
        channel_mult=(1, 2, 3),
        num_res_blocks=1,
        attention_px=(8, 4),
        head_channels=16,
        norm_groups=8,
        dropout_prob=0.0,
        text_context=20,
        vocab_size=384,
        text_width=64,
        text_layers=1,
        text_heads=4,
        compute_dtype="float32",
    ),
    # Half of its multiplications are at the level of 8 positions.
    "icons": Text2ImConfig(
        image_px=32,
        patch_px=2,
        num_channels=32,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        attention_px=(8, 4),
        head_channels=32,
        norm_groups=8,
        dropout_prob=0.0,
        text_context=24,
        vocab_size=4096,
        text_width=128,
        text_layers=2,
        text_heads=4,
        compute_dtype="float32",
    ),
    "released": Text2ImConfig(),
    "paper": Text2ImConfig(
        num_channels=512, text_width=2048, text_layers=24, text_heads=32
    ),
}

_UPSAMPLER = {
    "tiny": dataclasses.replace(
        _BASE["tiny"],
        image_px=64,
        low_res_px=16,
        patch_px=2,
        channel_mult=(1, 1, 2),
        attention_px=(8,),
    ),
    "icons": dataclasses.replace(
        _BASE["icons"],
        image_px=128,
        low_res_px=32,
        patch_px=4,
        channel_mult=(1, 2, 2),
        attention_px=(8,),
        text_context=32,
        vocab_size=1024,
        text_width=64,
        text_layers=1,
    ),
    "released": Text2ImConfig(
        image_px=256,
        low_res_px=64,
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
    ),
    # Text depth 16 is inferred: it gives the paper's 1.5B parameters; 24 gives 1.6B.
    # Heads are 64 channels wide, as released.
    "paper": Text2ImConfig(
        image_px=256,
        low_res_px=64,
        num_channels=384,
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        text_width=1024,
        text_heads=16,
    ),
}

_NOISED_CLIP = {
    "tiny": NoisedClipConfig(
        image_px=16,
        patch_px=4,
        image_width=96,
        image_layers=2,
        image_heads=3,
        text_context=20,
        vocab_size=384,
        text_width=64,
        text_layers=1,
        text_heads=2,
        embed_dim=32,
        compute_dtype="float32",
    ),
    "icons": NoisedClipConfig(
        image_px=32,
        patch_px=4,
        image_width=128,
        image_layers=3,
        image_heads=2,
        text_context=24,
        vocab_size=4096,
        text_width=128,
        text_layers=2,
        text_heads=2,
        embed_dim=128,
        compute_dtype="float32",
    ),
    "released": NoisedClipConfig(),
    # ViT-L/4: tower sizes of CLIP's table 20 (inferred); the paper says ViT-L.
    "paper": NoisedClipConfig(
        image_width=1024,
        image_layers=24,
        image_heads=16,
        text_width=768,
        text_heads=12,
        embed_dim=768,
        vocab_size=49408,
    ),
}

# Settings with which a small upsampler learns in minutes. It predicts the difference
# from the enlarged small picture: its few channels cannot carry that picture itself.
SHORT_UPSAMPLING = {
    "diffusion.schedule": "squaredcos_cap_v2",
    "diffusion.prediction": "x",
    "model.residual_low_res": True,
    "train.loss_weighting": "min_snr",
    "train.loss_weighting_snr": 20.0,
    "train.global_batch_size": 8,
    # Small pictures that the base model drew are not quite clean.
    "data.low_res_corruption": "noise",
    "data.low_res_corruption_strength": 0.1,
    "sample.sampler": "dpm_solver_pp",
    "sample.respacing": "10",
    "sample.noise_temperature": 1.0,
}

# Settings that the phases of size icons share. `glide data icons` makes the pictures,
# whose five styles have equal shares.
ICONS = {
    "data.sources": tuple(
        f"webdataset:runs/icons/train/{style}-*.tar?captions=random"
        for style in ("noto", "openmoji", "twemoji", "fluent", "clip_art")
    ),
    "data.validation_sources": (
        "webdataset:runs/icons/val_pairs",
        "webdataset:runs/icons/val_concepts",
    ),
    "optim.b2": 0.99,
    "optim.schedule": "cosine",
    "optim.grad_clip_norm": 1.0,
    "ema.decays": (0.999,),
    "checkpoint.every_steps": 500,
    "log.every_steps": 100,
    "log.validate_every_steps": 1000,
}

ICONS_UPSAMPLING = ICONS | SHORT_UPSAMPLING | {"log.validation_examples": 64}

# Settings of a student (2202.00512, appendix B): Adam, a learning rate that decays to
# 0, clipping at 1 and the deterministic sampler that it learns the steps of.
DISTILLATION = {
    "diffusion.prediction": "x_and_eps",
    "train.loss_type": "truncated_snr",
    "optim.learning_rate": 1e-4,
    "optim.schedule": "linear",
    "optim.grad_clip_norm": 1.0,
    "sample.sampler": "ddim",
}


def base(size: str, *, inpaint: bool = False) -> Text2ImConfig:
    """Returns the text-to-image model of a size, of 64 px; tiny 16, icons 32.

    Args:
      size: one of SIZES.
      inpaint: whether the model is conditioned on a partly known image.

    Raises:
      UserError: an unknown size.
    """
    return dataclasses.replace(lookup(_BASE, size), inpaint=inpaint)


def upsampler(size: str, *, inpaint: bool = False) -> Text2ImConfig:
    """Returns the 4x upsampler of a size, conditioned on low_res and the caption.

    Args:
      size: one of SIZES.
      inpaint: whether the model is conditioned on a partly known image.

    Raises:
      UserError: an unknown size.
    """
    return dataclasses.replace(lookup(_UPSAMPLER, size), inpaint=inpaint)


def noised_clip(size: str) -> NoisedClipConfig:
    """Returns the noised CLIP that guides the base model of a size, one of SIZES.

    Raises:
      UserError: an unknown size.
    """
    return lookup(_NOISED_CLIP, size)


def lookup(table: dict[str, T], size: str) -> T:
    """Returns the entry of a size.

    Raises:
      UserError: the table has no such size.
    """
    if size not in table:
        raise UserError(f"size {size!r} is not one of {', '.join(table)}")
    return table[size]
