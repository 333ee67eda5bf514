"""Writes a sampler outside of the package and compares it with DDIM.

    python examples/write_a_sampler.py --base=runs/quickstart/bundles/base_cfg \
        --prompt="a large red circle on a black background"

The step is DDIM's (arXiv 2010.02502, eq. 12 and 16),

    x_{t-1} = sqrt(A_{t-1}) x_start + sqrt(1 - A_{t-1} - s^2) eps + s noise,
    s = eta sqrt((1 - A_{t-1}) / (1 - A_t)) sqrt(1 - A_t / A_{t-1}),

with an eta that depends on the timestep: 1 in the noisy part of the chain, where fresh
noise corrects earlier errors, and 0 after it, where noise would cost detail.
CONTRIBUTING.md describes how a rule becomes a choice of `--sampler`.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from glide_jax import array_types
from glide_jax.diffusion import guidance, process, respacing, sampling_loop
from glide_jax.runtime import random_streams
from glide_jax.sample import image_io, restore


def sample(
    denoise: sampling_loop.Denoise,
    tables: process.DiffusionTables,
    x_init: array_types.Image,
    keys: array_types.PRNGKeys,
    *,
    first_deterministic: int = 500,
) -> jax.Array:
    """Returns pictures (b, h, w, c) in [-1, 1] from noise of the same shape.

    Args:
      denoise: (x_t, timesteps of the training chain) -> model_output.
      tables: the respaced chain.
      x_init: noise at the last index of `tables`.
      keys: one key per picture.
      first_deterministic: steps from timesteps up to this one add no noise.
    """

    def step(walked, x_t):
        t = jnp.full(x_t.shape[:1], tables.num_timesteps - 1 - walked, jnp.int32)
        timesteps = tables.timesteps[t]
        # The estimates of the clean picture and of the noise, which explain x_t.
        x_start, eps = guidance.estimate(
            tables, denoise(x_t, timesteps), x_t, t, None, True, None
        )
        cumprod = process.gather(tables.alphas_cumprod, t)
        prev = process.gather(tables.alphas_cumprod_prev, t)
        eta = (timesteps > first_deterministic)[:, None, None, None]
        sigma = eta * jnp.sqrt((1 - prev) / (1 - cumprod) * (1 - cumprod / prev))
        direction = jnp.sqrt(jnp.maximum(1 - prev - sigma**2, 0))
        noise = sampling_loop.step_noise(keys, t, x_t.shape[1:])
        return jnp.sqrt(prev) * x_start + direction * eps + sigma * noise

    return jax.lax.fori_loop(0, tables.num_timesteps, step, x_init)


def make_denoise(
    model: restore.SampleModel, prompt: str, count: int
) -> sampling_loop.Denoise:
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
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, default="out/samplers.png")
    options = parser.parse_args()

    model = restore.load_bundle(options.base)
    diffusion, side = model.config.diffusion, model.config.model.image_px
    denoise = make_denoise(model, options.prompt, options.num_images)
    keys = random_streams.image_keys(
        0, np.arange(options.num_images), random_streams.BASE_STAGE
    )
    x_init = sampling_loop.initial_noise(keys, (side, side, 3))

    tables = respacing.respaced_tables(
        diffusion.schedule, diffusion.num_timesteps, f"lambda{options.num_steps}"
    )
    rows = {
        "ddim": sampling_loop.sample_loop(denoise, tables, x_init, keys, rule="ddim"),
        "own": sample(denoise, tables, x_init, keys),
    }
    pixels = [
        np.concatenate(list(image_io.to_pixels(row)), axis=1) for row in rows.values()
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pixels)).save(options.output)
    difference = jnp.mean(jnp.abs(rows["ddim"] - rows["own"]))
    print(f"{options.output}: rows {', '.join(rows)}; mean difference {difference:.4f}")


if __name__ == "__main__":
    main()
