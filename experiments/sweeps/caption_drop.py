"""Caption-drop probability of the tiny base model: what an empty caption costs.

    glide sweep experiments/sweeps/caption_drop.py --root=runs/caption_drop --parallel=2
    glide sweep --root=runs/caption_drop --report

The validation loss is that of captions; what is bought with it, guidance, shows in
`glide evaluate` of the runs' bundles. The paper's fine-tune drops 0.2.
"""

from glide_jax.sweep import listed, product, seeds

COMMAND = (
    "train --config=experiments/configs/base64.py:tiny"
    " --config.train.num_steps=300 --config.optim.warmup_steps=30"
)


def sweep():
    """Four probabilities, with two seeds each."""
    return product(listed("train.caption_drop_prob", [0.0, 0.1, 0.2, 0.4]), seeds(2))
