"""Sampler x respacing: how few steps will do, and of which sampler.

    glide sweep experiments/sweeps/respacing.py --root=runs/respacing -- \\
        --base=runs/cfg/bundle --num_images=1000 \\
        --captions_of=shapes:quickstart --reference=runs/reference.npz
"""

from glide_jax.sweep import listed, product

COMMAND = "evaluate"


def sweep():
    """Each sampler at 10 to 100 evenly spaced timesteps."""
    return product(
        listed("sampler", ["ddpm", "ddim", "plms", "dpm_solver_pp"]),
        listed("respacing", [10, 25, 50, 100]),
    )
