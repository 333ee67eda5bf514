"""Folders of samples as `glide sample` writes them, of plain pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from glide_jax.sample import image_io

PROMPTS = ("a red circle", 'a "corgi", painted', "<b>é</b> </script> {DATA}", "=1+1")


def make(
    folder: pathlib.Path, prompts: Sequence, *, brightness: int, px: int = 16
) -> str:
    """Writes a picture for each prompt; every pixel of picture i is (brightness, i, 0).

    Returns its path.
    """
    pictures, entries = [], []
    for i, prompt in enumerate(prompts):
        pixels = np.full((px, px, 3), (brightness, i, 0), np.uint8)
        entries.append({"index": i, "prompt": prompt, "file": f"{i:06d}.png"})
        pictures.append((entries[-1]["file"], pixels))
    image_io.write_all(folder, pictures, {"verb": "sample", "images": entries})
    return str(folder)
