"""Learning rate x batch, of the tiny base model: minutes on two CPU cores.

glide sweep experiments/sweeps/lr_batch.py --root=runs/lr_batch --parallel=2
glide sweep --root=runs/lr_batch --report
"""

from glide_jax.sweep import listed, product

COMMAND = (
    "train --config=experiments/configs/base64.py:tiny"
    " --config.train.num_steps=150 --config.optim.warmup_steps=15"
)


def sweep():
    """Two batches, each at three learning rates."""
    return product(
        listed("train.global_batch_size", [16, 32]),
        listed("optim.learning_rate", [5e-4, 2e-3, 8e-3]),
    )
