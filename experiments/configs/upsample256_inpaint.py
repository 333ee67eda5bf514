"""The upsampler's inpainting phase: the whole low_res, a part of the large picture.

    glide train --config=experiments/configs/upsample256_inpaint.py:tiny \\
        --workdir=runs/up_inpaint --config.train.init_from=runs/up

low_res moves behind the four new input channels.
"""

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, icons, released or paper."""
    config = resolve.to_config_dict(
        Config(
            name=f"upsample256_inpaint_{size}",
            model=presets.upsampler(size, inpaint=True),
        )
    )
    config.diffusion.schedule = "linear"  # published
    config.sample.sampler = "ddim"
    config.sample.respacing = "fast27"  # published
    config.sample.noise_temperature = 0.997  # published
    config.train.init_from = "runs/up"
    _SIZES[size](config)
    return config


def tiny(config: ConfigDict) -> None:
    """A minute on two CPU cores."""
    config.update_from_flattened_dict(presets.SHORT_UPSAMPLING)
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.train.num_steps = 150
    config.optim.learning_rate = 2e-3
    config.optim.b2 = 0.99
    config.optim.warmup_steps = 50
    config.optim.schedule = "cosine"
    config.optim.grad_clip_norm = 1.0
    config.ema.decays = (0.99,)
    config.checkpoint.every_steps = 100
    config.log.every_steps = 100
    config.log.validation_examples = 16


def icons(config: ConfigDict) -> None:
    """Two minutes on a CPU core."""
    config.update_from_flattened_dict(presets.ICONS_UPSAMPLING)
    config.train.num_steps = 200
    config.optim.learning_rate = 5e-4
    config.optim.warmup_steps = 100


def released(config: ConfigDict) -> None:
    """The released size; the length of this phase is not published."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 200_000  # ours
    config.train.global_batch_size = 512
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 1.5B model; this phase's length and batch are not published."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 200_000  # ours
    config.train.global_batch_size = 512
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
