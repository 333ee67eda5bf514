"""The base model: captions to 64 px pictures (tiny: 16 px, icons: 32 px).

    glide train --config=experiments/configs/base64.py:tiny --workdir=runs/base

`paper` is the 3.5B model's run, `released` the 385M model's.
"""

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, icons, released or paper."""
    config = resolve.to_config_dict(
        Config(name=f"base64_{size}", model=presets.base(size))
    )
    _SIZES[size](config)
    return config


def tiny(config: ConfigDict) -> None:
    """Minutes on two CPU cores; see the quickstart in README."""
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.data.tokenizer = "sentencepiece:384"
    config.train.num_steps = 2200
    # Colour and shape are decided where little of the picture is left.
    config.train.timestep_sampling = "power"
    config.train.timestep_power = 2.0
    config.train.global_batch_size = 32
    config.optim.learning_rate = 2e-3
    config.optim.b2 = 0.99
    config.optim.warmup_steps = 100
    config.optim.schedule = "cosine"
    config.optim.grad_clip_norm = 1.0
    config.ema.decays = (0.995,)
    config.checkpoint.every_steps = 500
    config.log.every_steps = 100
    config.sample.respacing = "50"


def icons(config: ConfigDict) -> None:
    """An hour and three quarters on one CPU core; run `glide data icons` first."""
    config.update_from_flattened_dict(presets.ICONS)
    config.diffusion.prediction = "v"
    config.data.tokenizer = "sentencepiece:4096"
    config.train.num_steps = 10_000
    config.train.global_batch_size = 32
    config.train.caption_drop_prob = 0.1
    config.optim.learning_rate = 1.5e-3
    config.optim.warmup_steps = 300
    config.log.grid_every_steps = 2000
    config.sample.sampler = "dpm_solver_pp"
    config.sample.respacing = "25"


def released(config: ConfigDict) -> None:
    """GLIDE (filtered): 1.1M iterations; name your own data."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 1_100_000
    config.train.global_batch_size = 2048
    config.optim.learning_rate = 3e-4  # inferred: ADM-64, the same U-Net
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 3.5B run: 2.5M iterations of 2048; name your own data."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 2_500_000
    config.train.global_batch_size = 2048
    config.optim.learning_rate = 1.2e-4  # inferred: unCLIP's decoder, the same U-Net
    # For v5p:4x4x8, which needs no recomputation; for other machines see
    # experiments/results/plan and `glide plan --search`.
    config.mesh.fsdp = 8
    config.checkpoint.every_steps = 1000


_SIZES = {
    "tiny": tiny,
    "icons": icons,
    "released": released,
    "paper": paper,
}
