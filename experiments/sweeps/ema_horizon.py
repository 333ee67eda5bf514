"""Horizon of the parameters' average, of the tiny base model.

    glide sweep experiments/sweeps/ema_horizon.py --root=runs/ema --parallel=2
    glide sweep --root=runs/ema --report

The runs train the same parameters; what is validated is their first average. One run
can keep several (ema.decays=(0.9,0.99)), but validates the first alone.
"""

from glide_jax.sweep import listed

COMMAND = (
    "train --config=experiments/configs/base64.py:tiny"
    " --config.train.num_steps=300 --config.optim.warmup_steps=30"
)


def sweep():
    """Averages over about 2 to 1000 updates; a decay of d reaches 1 / (1 - d) back."""
    return listed("ema.decays", [(0.5,), (0.9,), (0.98,), (0.995,), (0.999,)])
