"""The guidance phase: a fifth of the captions replaced by the empty one.

    glide train --config=experiments/configs/base64_cfg.py:tiny --workdir=runs/cfg \\
        --config.train.init_from=runs/base
"""

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, icons, released or paper."""
    config = resolve.to_config_dict(
        Config(name=f"base64_cfg_{size}", model=presets.base(size))
    )
    config.train.init_from = "runs/base"
    config.train.caption_drop_prob = 0.2  # published
    _SIZES[size](config)
    return config


def tiny(config: ConfigDict) -> None:
    """A minute or two on two CPU cores."""
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.train.num_steps = 350
    config.train.timestep_sampling = "power"
    config.train.timestep_power = 2.0
    config.train.global_batch_size = 32
    config.optim.learning_rate = 5e-4
    config.optim.b2 = 0.99
    config.optim.warmup_steps = 50
    config.optim.schedule = "cosine"
    config.optim.grad_clip_norm = 1.0
    config.ema.decays = (0.99,)
    config.checkpoint.every_steps = 300
    config.log.every_steps = 100
    config.sample.respacing = "50"


def icons(config: ConfigDict) -> None:
    """Seven minutes on a CPU core."""
    config.update_from_flattened_dict(presets.ICONS)
    config.diffusion.prediction = "v"
    config.train.num_steps = 600
    config.train.global_batch_size = 32
    config.optim.learning_rate = 5e-4
    config.optim.warmup_steps = 100
    config.sample.sampler = "dpm_solver_pp"
    config.sample.respacing = "25"


def released(config: ConfigDict) -> None:
    """GLIDE (filtered): 500K iterations, for guidance and inpainting together."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 500_000
    config.train.global_batch_size = 2048
    config.optim.learning_rate = 1e-4  # ours: a third of the first phase's
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The 3.5B model; this phase's length is not published."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.train.num_steps = 500_000  # ours
    config.train.global_batch_size = 2048
    config.optim.learning_rate = 1.2e-4  # inferred: as the first phase
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
