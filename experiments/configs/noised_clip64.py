"""The noised CLIP: pictures at any noise level against captions.

glide train --config=experiments/configs/noised_clip64.py:tiny --workdir=runs/clip
"""

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, icons, released or paper."""
    config = resolve.to_config_dict(
        Config(name=f"noised_clip64_{size}", model=presets.noised_clip(size))
    )
    config.optim.schedule = "cosine"  # as CLIP
    _SIZES[size](config)
    return config


def tiny(config: ConfigDict) -> None:
    """A minute or two on two CPU cores."""
    config.data.sources = ("shapes:quickstart",)
    config.data.validation_sources = ("shapes:quickstart",)
    config.data.tokenizer = "sentencepiece:384"
    config.train.num_steps = 600
    config.train.global_batch_size = 64
    config.optim.learning_rate = 1e-3
    config.optim.b2 = 0.99
    config.optim.warmup_steps = 100
    config.optim.weight_decay = 0.2  # inferred: CLIP
    config.optim.grad_clip_norm = 1.0
    config.ema.decays = (0.99,)
    config.checkpoint.every_steps = 300
    config.log.every_steps = 100


def icons(config: ConfigDict) -> None:
    """Five minutes on a CPU core."""
    config.update_from_flattened_dict(presets.ICONS)
    config.data.tokenizer = "sentencepiece:4096"
    config.train.num_steps = 250
    config.train.global_batch_size = 128
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.weight_decay = 0.2  # inferred: CLIP
    config.ema.decays = (0.99,)


def released(config: ConfigDict) -> None:
    """The released ViT-B/4; its run is not published, so the paper's is assumed."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.data.tokenizer = "clip"
    config.train.num_steps = 390_000
    config.train.global_batch_size = 32_768
    config.optim.learning_rate = 5e-4  # inferred: CLIP ViT-B
    config.optim.b2 = 0.98  # inferred: CLIP
    config.optim.eps = 1e-6  # inferred: CLIP
    config.optim.warmup_steps = 2000  # inferred: CLIP
    config.optim.weight_decay = 0.2  # inferred: CLIP
    config.checkpoint.every_steps = 2500


def paper(config: ConfigDict) -> None:
    """The paper's ViT-L: 390K iterations of 32,768 pairs."""
    config.data.sources = ("webdataset:data/train-{00000..09999}.tar",)
    config.data.tokenizer = "clip"
    config.train.num_steps = 390_000  # published
    config.train.global_batch_size = 32_768  # published
    config.optim.learning_rate = 4e-4  # inferred: CLIP ViT-L/14
    config.optim.b2 = 0.98  # inferred: CLIP
    config.optim.eps = 1e-6  # inferred: CLIP
    config.optim.warmup_steps = 2000  # inferred: CLIP
    config.optim.weight_decay = 0.0125  # published
    # For v5p:4x4x8; for other machines see experiments/results/plan and
    # `glide plan --search`.
    config.train.remat = ("dots",)
    config.train.remat_text = "dots"
    config.mesh.fsdp = 8
    config.checkpoint.every_steps = 1000


_SIZES = {
    "tiny": tiny,
    "icons": icons,
    "released": released,
    "paper": paper,
}
