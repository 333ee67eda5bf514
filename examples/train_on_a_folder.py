"""Trains a toy base model on a folder of captioned pictures and exports it.

    python examples/train_on_a_folder.py --folder=photos --workdir=runs/example

Without the folder, a small data set of coloured shapes is written there first. The
bundle in WORKDIR/bundle is what `Glide.load(base=...)` and `glide sample --base=` take.
`glide train` and `glide export` do the same from the command line.
"""

from __future__ import annotations

import argparse
import logging
import pathlib

from PIL import Image

from glide_jax import presets
from glide_jax.config import defaults, resolve, validate
from glide_jax.data import shapes_world
from glide_jax.train import export, loop


def write_pictures(folder: pathlib.Path, count: int) -> None:
    """Writes `count` pictures of 64 pixels, NNN.png with the caption in NNN.txt."""
    folder.mkdir(parents=True)
    source = shapes_world.ShapesWorld("quickstart").at_px(64)
    for i in range(count):
        example = source[i]
        Image.fromarray(example.image).save(folder / f"{i:03}.png")
        (folder / f"{i:03}.txt").write_text(example.caption)


def make_config(folder: pathlib.Path, num_steps: int) -> defaults.Config:
    """Returns the settings of the run; `glide help settings` lists all of them."""
    config = resolve.override(
        defaults.Config(name="example", model=presets.base("tiny")),
        {
            "data.sources": (f"folder:{folder}",),
            # A vocabulary of 384 pieces, trained on the captions at the first start.
            "data.tokenizer": "sentencepiece:384",
            "train.num_steps": num_steps,
            "train.global_batch_size": 16,
            "train.caption_drop_prob": 0.1,  # for classifier-free guidance
            "optim.learning_rate": 2e-3,
            "optim.warmup_steps": 20,
            "ema.decays": (0.99,),
            "log.every_steps": 20,
            "sample.respacing": "50",
        },
    )
    validate.validate(config)
    return config


def main() -> None:
    """Trains, or continues a run that was stopped, and exports the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, default="photos")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/example")
    parser.add_argument("--num_pictures", type=int, default=256)
    parser.add_argument("--num_steps", type=int, default=300)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    if not options.folder.exists():
        write_pictures(options.folder, options.num_pictures)
    loop.train(make_config(options.folder, options.num_steps), options.workdir)
    step = export.export(options.workdir, options.workdir / "bundle")
    print(f"{options.workdir / 'bundle'}: the averaged parameters of step {step}")


if __name__ == "__main__":
    main()
