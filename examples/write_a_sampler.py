"""Writes a sampler of one's own and compares it with DDIM.

    python examples/write_a_sampler.py --base=runs/quickstart/bundles/base_cfg \
        --prompt="a large red circle on a black background"

The sampler is Heun's method (EDM, arXiv 2206.00364, algorithm 1) for the probability
flow equation. With sigma = sqrt((1 - A) / A) and y = x_t / sqrt(A) its slope is the
noise estimate,

    dy / dsigma = eps(x_t, t),

so a step is a step of DDIM that is corrected by the slope at its end. It calls the
network twice a step. CONTRIBUTING.md describes how a rule becomes a choice of
`--sampler`.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from glide_jax import array_types
from glide_jax.diffusion import guidance, process, respacing, samplers
from glide_jax.sample import batches, image_io, restore


def heun_loop(
    denoise: samplers.Denoise,
    tables: process.DiffusionTables,
    x_init: array_types.Image,
) -> jax.Array:
    """Returns pictures (b, h, w, c) in [-1, 1] from noise of the same shape.

    Args:
      denoise: (x_t, timesteps of the training chain) -> model_output.
      tables: the respaced chain.
      x_init: noise at the last index of `tables`.
    """

    def estimate(x_t, t):
        output = denoise(x_t, tables.timesteps[t])
        return guidance.estimate(tables, output, x_t, t, None, True, None)

    def sigma(t):
        return process.gather(tables.sqrt_recipm1_alphas_cumprod, t)

    def scale(t):
        return process.gather(tables.sqrt_alphas_cumprod, t)

    def step(walked, x_t):
        t = jnp.full(x_t.shape[:1], tables.num_timesteps - 1 - walked, jnp.int32)
        _, eps = estimate(x_t, t)
        y = x_t / scale(t)
        y_next = y + (sigma(t - 1) - sigma(t)) * eps
        _, eps_next = estimate(y_next * scale(t - 1), t - 1)
        y_next = y + (sigma(t - 1) - sigma(t)) * (eps + eps_next) / 2
        return y_next * scale(t - 1)

    x_0 = jax.lax.fori_loop(0, tables.num_timesteps - 1, step, x_init)
    # The last step lands on the estimate of the clean picture.
    return estimate(x_0, jnp.zeros(x_0.shape[:1], jnp.int32))[0]


def make_denoise(
    model: restore.SampleModel, prompt: str, count: int
) -> samplers.Denoise:
    """Returns the model as a function of x_t and timesteps, for `count` pictures."""
    tokens, text_mask = model.tokenizer.encode_batch(
        [prompt] * count, model.config.model.text_context
    )
    text = model.fns.encode(model.params, tokens, text_mask)

    def denoise(x_t, timesteps):
        return model.fns.denoise(model.params, x_t, timesteps, text)

    return denoise


def main() -> None:
    """Draws with both samplers from the same noise and writes one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--num_images", type=int, default=4)
    parser.add_argument("--num_steps", type=int, default=10)
    parser.add_argument("--output", type=pathlib.Path, default="out/samplers.png")
    options = parser.parse_args()

    model = restore.load_bundle(options.base)
    diffusion, side = model.config.diffusion, model.config.model.image_px
    denoise = make_denoise(model, options.prompt, options.num_images)
    keys = batches.image_keys(
        0, np.arange(options.num_images), stream=batches.BASE_STREAM
    )
    x_init = samplers.initial_noise(keys, (side, side, 3))

    def chain(num_steps):
        return respacing.respaced_tables(
            diffusion.schedule, diffusion.num_timesteps, f"lambda{num_steps}"
        )

    # As many calls of the network: Heun's last step is one call.
    ddim_tables = chain(2 * options.num_steps - 1)
    rows = {
        "ddim": samplers.sample_loop(
            denoise, ddim_tables, x_init, keys, rule="ddim", eta=0.0
        ),
        "heun": heun_loop(denoise, chain(options.num_steps), x_init),
    }
    pixels = [
        np.concatenate(list(image_io.to_pixels(row)), axis=1) for row in rows.values()
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pixels)).save(options.output)
    difference = jnp.mean(jnp.abs(rows["ddim"] - rows["heun"]))
    print(f"{options.output}: rows {', '.join(rows)}; mean difference {difference:.4f}")


if __name__ == "__main__":
    main()
