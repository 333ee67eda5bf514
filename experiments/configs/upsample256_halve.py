"""Distillation: a student of the upsampler with half its teacher's steps.

    glide train --config=experiments/configs/upsample256_halve.py:tiny \\
        --workdir=runs/up8 --config.train.teacher=runs/up \\
        --config.train.student_steps=8 --config.sample.respacing=grid8

`glide distil` runs one such phase for each halving. For an inpainting teacher add
--config.model.inpaint=True.
"""

import dataclasses

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, released or paper."""
    model = dataclasses.replace(
        presets.upsampler(size), dropout_prob=0.0, residual_low_res=True
    )
    config = resolve.to_config_dict(
        Config(name=f"upsample256_halve_{size}", model=model)
    )
    config.update_from_flattened_dict(presets.DISTILLATION)
    config.diffusion.schedule = "linear"  # published
    config.train.teacher = "runs/upsample256"
    config.train.student_steps = 8
    config.sample.respacing = "grid8"
    config.sample.noise_temperature = 0.997  # published
    sizes = {"tiny": tiny, "released": released, "paper": paper}
    presets.lookup(sizes, size)(config)
    return config


def tiny(config: ConfigDict) -> None:
    """A minute on two CPU cores."""
    # The teacher's.
    config.diffusion.schedule = "squaredcos_cap_v2"
    config.diffusion.prediction = "x"
    config.sample.noise_temperature = 1.0
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.data.low_res_corruption = "noise"
    config.data.low_res_corruption_strength = 0.1
    config.train.num_steps = 300
    config.train.global_batch_size = 8
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 20
    config.ema.decays = (0.9,)
    config.checkpoint.every_steps = 200
    config.log.every_steps = 100
    config.log.validation_examples = 16


def released(config: ConfigDict) -> None:
    """GLIDE (filtered); lengths are those of progressive distillation at 64 px."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 50_000
    config.train.global_batch_size = 512
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 1.5B model."""
    released(config)
    # For v5p:4x4x8; for other machines see `glide plan --search`.
    config.mesh.fsdp = 8
    config.train.remat = ("dots",)
    config.checkpoint.every_steps = 1000
