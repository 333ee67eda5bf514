"""Fine-tunes the model of a bundle on other pictures.

    python examples/finetune_a_bundle.py --bundle=models/base --workdir=runs/finetune \
        --source=folder:photos --num_steps=1000

A bundle is what `glide export` writes, and what `glide convert --from=openai` makes of
a released file. Model, diffusion and sampling settings are those of the bundle. The
tokenizer is the bundle's as well, since the model's token table belongs to it.
"""

from __future__ import annotations

import argparse
import logging
import pathlib

from glide_jax.checkpoint import bundle
from glide_jax.config import defaults, resolve, validate
from glide_jax.train import export, loop


def make_config(
    bundle_folder: str, source: str, num_steps: int, batch_size: int
) -> defaults.Config:
    """Returns the settings of the fine-tune."""
    trained = resolve.from_json(bundle.read_bundle(bundle_folder).config_json)
    config = defaults.Config(
        name=f"{trained.name}_finetune",
        model=trained.model,
        diffusion=trained.diffusion,
        sample=trained.sample,
    )
    config = resolve.override(
        config,
        {
            "data.sources": (source,),
            "train.init_from": bundle_folder,
            "train.num_steps": num_steps,
            "train.global_batch_size": batch_size,
            "train.caption_drop_prob": 0.2,  # keeps classifier-free guidance
            "optim.learning_rate": 1e-5,
            "optim.warmup_steps": 100,
            "ema.decays": (0.999,),
            "log.every_steps": 10,
        },
    )
    validate.validate(config)
    return config


def main() -> None:
    """Trains, or continues a run that was stopped, and exports the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--source", required=True, help="e.g. folder:photos")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--num_steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    config = make_config(
        options.bundle, options.source, options.num_steps, options.batch_size
    )
    loop.train(config, options.workdir)
    export.export(options.workdir, options.workdir / "bundle")
    print(f"{options.workdir / 'bundle'}: the fine-tuned model")


if __name__ == "__main__":
    main()
