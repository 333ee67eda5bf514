"""Corruption of the upsampler's condition, kind x strength, at toy size.

    glide sweep experiments/sweeps/low_res_corruption.py --root=runs/low_res
    glide sweep --root=runs/low_res --report

A corrupted condition costs validation loss, which is measured with the same corruption,
and buys an upsampler that bears what a base model draws.
"""

from glide_jax.sweep import listed, product

COMMAND = (
    "train --config=experiments/configs/upsample256.py:tiny"
    " --config.train.num_steps=300 --config.optim.warmup_steps=30"
)


def sweep():
    """None, blurs by their sigma in pixels, and noise by its deviation."""
    none = listed("data.low_res_corruption", ["none"])
    blur = product(
        listed("data.low_res_corruption", ["blur"]),
        listed("data.low_res_corruption_strength", [0.3, 0.6, 1.2]),
    )
    noise = product(
        listed("data.low_res_corruption", ["noise"]),
        listed("data.low_res_corruption_strength", [0.05, 0.1, 0.2]),
    )
    return none + blur + noise
