"""Sample grids during training."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.data import schema
from glide_jax.eval import contact_sheet
from glide_jax.models import build
from glide_jax.parallel import sharding
from glide_jax.runtime import random_streams
from glide_jax.sample import batches, image_io, stage, stage_inputs
from glide_jax.text import tokenizers
from glide_jax.train import periodic_eval, setup

GRID_SEED = 0
HOLE_LEVEL = 160  # grey level of the pixels that an inpainting model fills


def make(run: setup.TrainingRun) -> periodic_eval.GridHook | None:
    """The grid hook of a run; None for a noised CLIP or without validation data.

    The upper row shows held-out images, the lower row samples of their captions, which
    are printed below. Rows between them show further inputs of the model: an
    upsampler's low_res, an inpainting model's known part.
    """
    if run.grid is None or run.config.model.family != "text2im":
        return None
    batch = run.grid
    count = len(batch["image"])
    draw = make_draw(run, run.config.sample.guidance_scale)
    given = [("real", list(image_io.to_pixels(batch["image"])))]
    if "low_res" in batch:
        given.append(("input", list(image_io.to_pixels(batch["low_res"]))))
    if "inpaint_mask" in batch:
        mask = batch["inpaint_mask"]
        known = np.where(mask > 0, given[0][1], HOLE_LEVEL)
        given.append(("known part", list(known)))
    captions = [run.tokenizer.decode(tokens) for tokens in batch["tokens"]]

    def draw_grid(params: array_types.Params) -> np.ndarray:
        rows = [*given, ("drawn", list(draw(params, batch, np.arange(count))))]
        no_notes = [[""] * count] * len(given)
        section = contact_sheet.Section(
            "", "", [""] * count, rows, [*no_notes, captions]
        )
        tile_px = contact_sheet.whole_tile_px(run.config.model.image_px)
        return contact_sheet.draw_contact_sheet("", "", [section], tile_px=tile_px)

    return draw_grid


# (params, held-out batch, indices that key the noise) -> uint8 (B, H, W, 3)
Draw = Callable[[array_types.Params, schema.Batch, np.ndarray], np.ndarray]


def make_draw(
    run: setup.TrainingRun, guidance_scale: float, mesh: Mesh | None = None
) -> Draw:
    """Samples the model for the captions, low_res and known parts of a batch.

    All processes must call it with the whole batch, and each gets all samples. Batches
    are sharded over `mesh`, if given, which must divide them.
    """
    config, model = run.config, run.config.model
    assert isinstance(model, Text2ImConfig)  # a noised CLIP does not sample
    # Guidance needs a model that has seen the empty caption.
    is_guided = not model.low_res_px and config.train.caption_drop_prob > 0
    program = stage.make_program(
        config,
        build.make_denoiser(model, prediction=config.diffusion.prediction),
        stage.StageSettings.of(
            config.sample,
            "cfg" if is_guided else "none",
            inpaint_mode="pinned" if model.inpaint else None,
        ),
    )

    # Parameters are sharded over all processes, so all of them sample.
    @functools.partial(jax.jit, out_shardings=sharding.replicated(run.mesh))
    def draw(params, inputs):
        inputs = inputs if mesh is None else batches.spread(inputs, mesh)
        return program(params, None, inputs)

    empty = stage_inputs.Caption(
        *map(jnp.asarray, tokenizers.empty_batch(run.tokenizer, 1, model.text_context))
    )

    def draw_batch(params, batch, indices):
        inputs = stage_inputs.StageInputs(
            keys=random_streams.image_keys(
                GRID_SEED, indices, random_streams.BASE_STAGE
            ),
            caption=stage_inputs.Caption(
                batch["tokens"][:, None], batch["text_mask"][:, None]
            ),
            empty=empty,
            guidance_scale=guidance_scale,
            eta=config.sample.eta,
            noise_temperature=config.sample.noise_temperature,
            low_res=batch.get("low_res"),
            inpaint_image=batch["image"] if model.inpaint else None,
            inpaint_mask=batch.get("inpaint_mask"),
        )
        drawn = draw(params, stage_inputs.with_array_scalars(inputs))
        return image_io.to_pixels(drawn)

    return draw_batch
