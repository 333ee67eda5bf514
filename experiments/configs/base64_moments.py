"""Distillation by moments: a student of the base model with few steps, in one phase.

    glide train --config=experiments/configs/base64_moments.py:tiny \\
        --workdir=runs/moments2 --config.train.teacher=runs/fold \\
        --config.train.student_steps=2 --config.sample.respacing=grid2

The teacher is a student of base64_fold.py. The student starts as its teacher, or as a
student of halved steps with --config.train.init_from=runs/halve2. For an inpainting
teacher add --config.model.inpaint=True.
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
    config = resolve.to_config_dict(Config(name=f"base64_moments_{size}", model=model))
    config.update_from_flattened_dict(presets.DISTILLATION)
    config.train.teacher = "runs/base64_fold"
    config.train.student_loss = "match_moments"
    config.train.student_steps = 2
    config.train.caption_drop_prob = 0.2  # the teacher's
    config.optim.b1 = 0.0  # two networks that follow each other (inferred)
    config.optim.b2 = 0.99
    config.sample.eta = 1.0
    config.sample.respacing = "grid2"
    sizes = {"tiny": tiny, "released": released, "paper": paper}
    presets.lookup(sizes, size)(config)
    return config


def tiny(config: ConfigDict) -> None:
    """Three minutes on two CPU cores, from a student of halved steps."""
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.train.num_steps = 300
    config.train.global_batch_size = 32
    config.optim.learning_rate = 5e-4
    config.optim.warmup_steps = 20
    config.ema.decays = (0.9,)
    config.checkpoint.every_steps = 250
    config.log.every_steps = 100


def released(config: ConfigDict) -> None:
    """GLIDE (filtered); lengths are those of progressive distillation at 64 px."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 50_000
    config.train.global_batch_size = 2048
    config.optim.warmup_steps = 1000
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 3.5B model."""
    released(config)
    # For v5p:4x4x8; for other machines see `glide plan --search`.
    config.mesh.fsdp = 8
    config.checkpoint.every_steps = 1000
