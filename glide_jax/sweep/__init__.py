"""Sweeps: many runs from one file, planned, started anywhere, and reported.

from glide_jax.sweep import listed, product

COMMAND = "train --config=experiments/configs/base64.py:tiny"

def sweep():
    return product(
        listed("optim.learning_rate", [3e-4, 1e-3]),
        listed("train.global_batch_size", [16, 32]),
    )
"""

from glide_jax.sweep.combine import listed, product, seeds, zipped

__all__ = ["listed", "product", "seeds", "zipped"]
