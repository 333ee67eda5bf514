"""Losses of a denoiser on held-out pictures, by quarter of the noise.

1. loss, mse: means over all timesteps, as validation during training estimates them
   (without low_pass_factors, which only reweigh)
2. bits per dimension = sum over t of vb + prior          diffusion/losses.py, eq. 5

The 8-bit term at t = 0 is computed exactly. Each quarter is estimated at `draws`
timesteps, one in each of as many equal parts of it, which is unbiased. Timesteps and
noise are keyed by the picture's index, so values are reproducible on any machine, and
two models are compared at the same timesteps and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.data import pipeline, schema
from glide_jax.diffusion import losses, process, schedules
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.parallel import sharding
from glide_jax.runtime import random_streams
from glide_jax.sample import batches, restore

QUARTILES = 4
DRAWS = 4  # timesteps of each quarter, for each picture

# (params, batch) -> sums over each quarter: each (b, QUARTILES), and "prior" (b,).
Terms = Callable[[array_types.Params, schema.Batch], dict[str, jax.Array]]


def measure(
    model: restore.SampleModel,
    source: schema.Source,
    count: int,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
    draws: int = DRAWS,
    on_batch: Callable[[int], None] = lambda finished: None,
) -> dict[str, float]:
    """Returns losses and bits per dimension of the first `count` records.

    Args:
      model: A base model or an upsampler, its parameters on `mesh`.
      source: Records; bad ones are replaced by keyed draws.
      count: At most the length of the source.
      batch_size: Records at once; does not change the values.
      mesh: Mesh over which batches are spread.
      draws: Timesteps of each quarter for each picture.
      on_batch: Called with the number of records of each batch.

    Returns:
      loss and mse, and each by quarter, _q0 (least noise) to _q3; bits_per_dimension
      with its standard error, its part of each quarter (_q0 with t = 0) and of the
      prior; losses_count, the number of records.

    Raises:
      UserError: The model is a CLIP, which has no such loss, or the source is empty.
    """
    if isinstance(model.config.model, defaults.NoisedClipConfig):
        raise UserError(
            f"bundle {model.folder} is a CLIP, which has no denoising loss; give a "
            "base model or an upsampler, or evaluate the CLIP by --metrics=clip_score"
        )
    if model.config.diffusion.prediction == "x_and_eps":
        raise UserError(
            f"bundle {model.folder} is a distilled student, which predicts no variance "
            "and so has no bound on the likelihood; evaluate its teacher, or its "
            "pictures by other metrics"
        )
    count = min(count, len(source))
    if count < 1:
        raise UserError(f"{source!r} has no records; check its path")
    terms = jax.jit(make_terms(model, draws))
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, count, batch_size):
        wanted = min(batch_size, count - start)
        size = batches.padded_size(wanted, batch_size, mesh)
        rows = [min(start + i, count - 1) for i in range(size)]
        batch = _batch(model, source, count, range(start, start + wanted))
        padded = {name: array[np.array(rows) - start] for name, array in batch.items()}
        if mesh is not None:
            padded = jax.device_put(padded, sharding.batch_sharding(mesh))
        sums = jax.device_get(terms(model.params, padded))
        parts.append({name: array[:wanted] for name, array in sums.items()})
        on_batch(wanted)
    joined = {
        name: np.concatenate([part[name] for part in parts]).astype(np.float64)
        for name in parts[0]
    }
    return summarise(joined, model.config.diffusion.num_timesteps)


def make_terms(model: restore.SampleModel, draws: int) -> Terms:
    """Returns a function that sums loss, mse and vb over each quarter, by example."""
    config, fns, sizes = model.config, model.fns, model.config.model
    assert isinstance(fns, build.DenoiserFns)
    assert isinstance(sizes, defaults.Text2ImConfig)
    steps = config.diffusion.num_timesteps
    betas = schedules.make_betas(config.diffusion.schedule, steps)
    tables = process.make_tables(betas, prediction=config.diffusion.prediction)
    lows = np.array([max(1, steps * q // QUARTILES) for q in range(QUARTILES)])
    highs = np.array([steps * (q + 1) // QUARTILES for q in range(QUARTILES)])

    def terms(params, batch):
        x_start = jnp.asarray(batch["image"])
        text = fns.encode(params, batch["tokens"], batch["text_mask"])
        conditions: dict[str, Any] = {"low_res": batch.get("low_res")}
        if sizes.inpaint:
            conditions["inpaint_image"] = x_start
            conditions["inpaint_mask"] = batch["inpaint_mask"]

        def at(t, keys):
            noise = jax.vmap(lambda k: jax.random.normal(k, x_start.shape[1:]))(keys)
            x_t = process.q_sample(tables, x_start, t, noise)
            output = fns.denoise(params, x_t, tables.timesteps[t], text, **conditions)
            found = losses.training_losses(
                tables, output, x_start, x_t, noise, t, loss_type=config.train.loss_type
            )
            vb, _ = losses.vb_terms(tables, output, x_start, x_t, t, clip_denoised=True)
            return jnp.stack([found["loss"], found["mse"], vb])

        def draw(_, place):
            quarter, part = place
            keys = _keys(batch["example_index"], 1 + quarter * draws + part)
            low, high = jnp.asarray(lows)[quarter], jnp.asarray(highs)[quarter]
            share = (part + jax.vmap(jax.random.uniform)(keys)) / draws
            t = jnp.int32(low + share * (high - low))
            # share may round up to 1.
            values = at(jnp.minimum(t, high - 1), _noise_keys(keys))
            return None, values * (high - low) / draws

        quarters, parts = np.divmod(np.arange(QUARTILES * draws), draws)
        _, sums = jax.lax.scan(draw, None, (jnp.asarray(quarters), jnp.asarray(parts)))
        sums = sums.reshape(QUARTILES, draws, *sums.shape[1:]).sum(axis=1)
        zero = jnp.zeros(x_start.shape[:1], jnp.int32)
        first = at(zero, _noise_keys(_keys(batch["example_index"], 0)))
        loss, mse, vb = jnp.moveaxis(sums.at[0].add(first), 1, 0)
        prior = losses.prior_bpd(tables, x_start)
        return {"loss": loss.T, "mse": mse.T, "vb": vb.T, "prior": prior}

    return terms


def summarise(terms: dict[str, np.ndarray], num_timesteps: int) -> dict[str, float]:
    """Returns means over examples of the terms of `make_terms`, in float64."""
    values: dict[str, float] = {}
    for name in ("loss", "mse"):
        by_quarter = terms[name].mean(axis=0)
        values[name] = float(by_quarter.sum() / num_timesteps)
        for i, total in enumerate(by_quarter):
            values[f"{name}_q{i}"] = float(total * QUARTILES / num_timesteps)
    total = terms["vb"].sum(axis=1) + terms["prior"]
    count = len(total)
    values["bits_per_dimension"] = float(total.mean())
    error = total.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    values["bits_per_dimension_standard_error"] = float(error)
    for i, part in enumerate(terms["vb"].mean(axis=0)):
        values[f"bits_per_dimension_q{i}"] = float(part)
    values["bits_per_dimension_prior"] = float(terms["prior"].mean())
    values["losses_count"] = count
    return values


def _batch(
    model: restore.SampleModel, source: schema.Source, count: int, rows: range
) -> schema.Batch:
    """Returns records prepared as in training, without mirroring."""
    sizes, data = model.config.model, model.config.data
    assert isinstance(sizes, defaults.Text2ImConfig)
    settings = pipeline.RowSettings(
        image_px=sizes.image_px,
        text_context=sizes.text_context,
        low_res_px=sizes.low_res_px,
        low_res_corruption=data.low_res_corruption,
        low_res_corruption_strength=data.low_res_corruption_strength,
        inpaint=sizes.inpaint,
    )
    return pipeline.fixed_batch(
        source, model.tokenizer, settings, range(count), rows=rows
    )


def _keys(indices: jax.Array, draw: jax.Array | int) -> array_types.PRNGKeys:
    """Returns a key for each picture and draw."""
    indices = jnp.asarray(indices)
    seeds = jnp.zeros(indices.shape, jnp.uint32)
    return random_streams.keys_of(seeds, indices.astype(jnp.uint32), draw)


def _noise_keys(keys: array_types.PRNGKeys) -> array_types.PRNGKeys:
    """Returns the keys of the noise, which differ from those of the timesteps."""
    return random_streams.fold_each(keys, random_streams.EVALUATION_NOISE)
