"""The base model of the binding benchmark: two objects and their relation, 32 px.

    python experiments/figures/shapes_binding.py --root=runs/shapes

trains size tiny and counts the errors on held-out captions.
"""

import dataclasses

from ml_collections import ConfigDict

from glide_jax import presets
from glide_jax.config import resolve
from glide_jax.config.defaults import Config

# Peak learning rates; those of released and paper are inferred as in base64.py.
_LEARNING_RATES = {
    "tiny": 1.5e-3,
    "icons": 1.5e-3,
    "released": 3e-4,
    "paper": 1.2e-4,
}


def get_config(size: str) -> ConfigDict:
    """The configuration of a size: tiny, icons, released or paper."""
    model = presets.base(size)
    if size == "tiny":
        # Patches make 32 px cost what 16 px cost.
        model = dataclasses.replace(
            model, image_px=32, patch_px=2, text_width=128, text_layers=2
        )
    config = resolve.to_config_dict(Config(name=f"base64_shapes_{size}", model=model))
    config.diffusion.prediction = "v"
    config.data.sources = ("shapes:full",)
    config.data.validation_sources = ("shapes:full",)
    config.data.tokenizer = "sentencepiece:384"
    config.train.num_steps = 24_000
    # Which object has which colour is decided where little of the picture is left.
    config.train.timestep_sampling = "power"
    config.train.timestep_power = 1.0
    config.train.global_batch_size = 32
    config.train.caption_drop_prob = 0.1
    config.optim.learning_rate = _LEARNING_RATES[size]
    config.optim.b2 = 0.99
    config.optim.warmup_steps = 100
    # A constant rate, so that a finished run can be continued to more steps; the
    # average of the weights takes the place of its decay.
    config.optim.schedule = "constant"
    config.optim.grad_clip_norm = 1.0
    config.ema.decays = (0.998,)
    config.checkpoint.every_steps = 500
    config.log.every_steps = 100
    config.log.validate_every_steps = 1000
    config.sample.sampler = "dpm_solver_pp"
    config.sample.respacing = "15"
    return config
