"""Unguided and four scales of each guidance: three curves without an accelerator.

    launch/curves.sh --root=runs/curves

Of the same kind as guidance_scale.py, with fewer points. What is drawn and compared
follows the --; launch/curves.sh fills it in for the quickstart's models.
"""

from glide_jax.sweep import listed, product

COMMAND = "evaluate"


def sweep():
    """The unguided run first: the curves of both modes begin there."""
    cfg = product(
        listed("guidance_mode", ["cfg"]),
        listed("guidance_scale", [1.5, 2.0, 3.0, 5.0]),
    )
    clip = product(
        listed("guidance_mode", ["clip"]),
        listed("clip_guidance_scale", [1.0, 2.0, 4.0, 8.0]),
    )
    return [{"guidance_mode": "none"}, *cfg, *clip]
