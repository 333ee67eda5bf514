"""Settings that continue a base model of icons, at equal compute.

    glide sweep experiments/sweeps/icons.py --root=runs/icons_trials

Each run sees 12,800 pictures of `glide data icons`, four minutes of one CPU core.
"validation/mse" is the unweighted error in every run. docs/results.md has the table.
"""

from glide_jax.sweep import listed, product

COMMAND = (
    "train --config=experiments/configs/base64_cfg.py:icons "
    "--config.train.init_from=runs/icons_models/bundles/base_cfg "
    "--config.data.cache_dir=runs/icons_models/cache "
    "--config.optim.warmup_steps=50 --config.ema.decays=0.99, "
    "--config.log.validate_every_steps=400"
)


def sweep():
    """Learning rates, and weights of the squared error by timestep."""
    steps = listed("train.num_steps", [400])
    rates = product(steps, listed("optim.learning_rate", [5e-4, 1.5e-3, 3e-3]))
    weights = product(
        steps,
        listed("optim.learning_rate", [1.5e-3]),
        listed("train.loss_weighting", ["min_snr", "sigmoid"]),
    )
    return rates + weights
