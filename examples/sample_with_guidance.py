"""Draws the same prompts with every guidance mode, one grid for each.

    python examples/sample_with_guidance.py --output=out/guidance \
        --base=runs/quickstart/bundles/base_cfg \
        --upsampler=runs/quickstart/bundles/upsampler \
        --clip=runs/quickstart/bundles/noised_clip

The seed is the same in every mode, so a picture differs from the one in its place in
another grid by its guidance alone.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
from PIL import Image

from glide_jax import Glide

# Options of `Glide.sample` by the name of their grid.
MODES = {
    "none": {"guidance_mode": "none"},
    "cfg": {"guidance_mode": "cfg", "guidance_scale": 3.0},
    "clip": {"guidance_mode": "clip", "clip_guidance_scale": 2.0},
    "cfg+clip": {
        "guidance_mode": "cfg+clip",
        "guidance_scale": 2.0,
        "clip_guidance_scale": 1.0,
    },
}


def main() -> None:
    """Loads the bundles once and writes MODE.png for each mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--upsampler")
    parser.add_argument("--clip", help="without it, the modes that need none are drawn")
    parser.add_argument(
        "--prompt", action="append", help="may be given again; one row of the grid each"
    )
    parser.add_argument("--num_images", type=int, default=4)
    parser.add_argument("--respacing", help="e.g. 50; the bundle's default if left out")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    prompts = options.prompt or ["a large red triangle on a black background"]

    glide = Glide.load(
        base=options.base, upsampler=options.upsampler, clip=options.clip
    )
    options.output.mkdir(parents=True, exist_ok=True)
    for mode, guidance in MODES.items():
        if "clip" in mode and options.clip is None:
            continue
        pictures = glide.sample(
            prompts,
            num_images=options.num_images,
            seed=0,
            respacing=options.respacing,
            **guidance,
        )
        # Pictures of one prompt follow each other.
        rows = np.split(pictures.images, len(prompts))
        grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        path = options.output / f"{mode}.png"
        Image.fromarray(grid).save(path)
        print(f"{path}: {len(pictures.images)} pictures")


if __name__ == "__main__":
    main()
