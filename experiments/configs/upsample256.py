"""The upsampler: 64 px to 256 px, with the caption (tiny: 16 to 64, icons: 32 to 128).

glide train --config=experiments/configs/upsample256.py:tiny --workdir=runs/up
"""

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, icons, released or paper."""
    config = resolve.to_config_dict(
        Config(name=f"upsample256_{size}", model=presets.upsampler(size))
    )
    config.diffusion.schedule = "linear"  # published
    config.sample.sampler = "ddim"  # published: the notebooks' choice
    config.sample.respacing = "fast27"  # published
    config.sample.noise_temperature = 0.997  # published
    _SIZES[size](config)
    return config


def tiny(config: ConfigDict) -> None:
    """A minute or two on two CPU cores."""
    config.update_from_flattened_dict(presets.SHORT_UPSAMPLING)
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.data.tokenizer = "sentencepiece:384"
    config.train.num_steps = 500
    config.optim.learning_rate = 3e-3
    config.optim.b2 = 0.99
    config.optim.warmup_steps = 50
    config.optim.schedule = "cosine"
    config.optim.grad_clip_norm = 1.0
    config.ema.decays = (0.995,)
    config.checkpoint.every_steps = 500
    config.log.every_steps = 100
    config.log.validation_examples = 16


def icons(config: ConfigDict) -> None:
    """An hour on a CPU core."""
    config.update_from_flattened_dict(presets.ICONS_UPSAMPLING)
    config.data.tokenizer = "sentencepiece:1024"
    config.train.num_steps = 6000
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 200


def released(config: ConfigDict) -> None:
    """GLIDE (filtered)'s upsampler: 400K iterations."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 400_000
    config.train.global_batch_size = 512
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 1.5B run: 1.6M iterations of 512."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 1_600_000
    config.train.global_batch_size = 512
    # For v5p:4x4x8; for other machines see experiments/results/plan and
    # `glide plan --search`. With four pictures a device the TPU's compiler would keep
    # float32 copies inside every norm: dots has them computed again, at little cost.
    config.mesh.fsdp = 8
    config.train.remat = ("dots",)
    config.checkpoint.every_steps = 1000


_SIZES = {
    "tiny": tiny,
    "icons": icons,
    "released": released,
    "paper": paper,
}
