"""Distillation, first part: a student of the base model that reads the guidance scale.

    glide train --config=experiments/configs/base64_fold.py:tiny --workdir=runs/fold \\
        --config.train.teacher=runs/base_cfg

One row draws a guided picture instead of two. `glide distil` runs this phase and those
of base64_halve.py. For an inpainting teacher add --config.model.inpaint=True.
"""

import dataclasses

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, released or paper."""
    model = dataclasses.replace(
        presets.base(size), dropout_prob=0.0, guidance_range=(1.0, 5.0)
    )
    config = resolve.to_config_dict(Config(name=f"base64_fold_{size}", model=model))
    config.update_from_flattened_dict(presets.DISTILLATION)
    config.train.teacher = "runs/base_cfg"
    config.train.caption_drop_prob = 0.2  # the teacher's
    config.sample.respacing = "50"
    sizes = {"tiny": tiny, "released": released, "paper": paper}
    presets.lookup(sizes, size)(config)
    return config


def tiny(config: ConfigDict) -> None:
    """Two minutes on two CPU cores."""
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.train.num_steps = 500
    config.train.global_batch_size = 32
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 20
    config.ema.decays = (0.9,)
    config.checkpoint.every_steps = 250
    config.log.every_steps = 100


def released(config: ConfigDict) -> None:
    """GLIDE (filtered); lengths are those of progressive distillation at 64 px."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 50_000
    config.train.global_batch_size = 2048
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 3.5B model."""
    released(config)
    # For v5p:4x4x8; for other machines see `glide plan --search`.
    config.mesh.fsdp = 8
    config.checkpoint.every_steps = 1000
