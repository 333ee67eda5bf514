"""Guidance mode x scale: the runs behind the three plots of the paper's figure 6.

    glide sweep experiments/sweeps/guidance_scale.py --root=runs/guidance -- \\
        --base=runs/cfg/bundle --clip=runs/clip/bundle --num_images=1000 \\
        --captions_of=shapes:quickstart --reference=runs/reference.npz

`glide evaluate` says what follows the --; scale 1 of cfg and 0 of clip are unguided.
"""

from glide_jax.sweep import listed, product

COMMAND = "evaluate"


def sweep():
    """Classifier-free guidance and CLIP guidance, each at its own scales."""
    cfg = product(
        listed("guidance_mode", ["cfg"]),
        listed("guidance_scale", [1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0]),
    )
    clip = product(
        listed("guidance_mode", ["clip"]),
        listed("clip_guidance_scale", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]),
    )
    return cfg + clip
