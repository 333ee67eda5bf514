"""Sample grids during training: the one place where train/ and sample/ meet."""

from __future__ import annotations

import jax
import numpy as np

from glide_jax import shapes
from glide_jax.models import build
from glide_jax.parallel import sharding
from glide_jax.sample import batches, images, stage, stage_inputs
from glide_jax.text import tokenizers
from glide_jax.train import looks, setup

GRID_SEED = 0


def make(run: setup.Run) -> looks.GridHook | None:
    """A function from averaged parameters to a grid of held-out captions.

    Upper row: the real pictures. Lower row: what the model makes of their captions
    (an upsampler of their low_res, an inpainting model of their known parts). None
    where there is nothing to draw: a noised CLIP, or no validation data.
    """
    config = run.config
    if run.grid is None or config.model.family != "text2im":
        return None
    # Guidance needs a model that has seen the empty caption.
    is_guided = not config.model.low_res_px and config.train.caption_drop_prob > 0
    program = stage.make_program(
        config,
        build.make_denoiser(config.model),
        stage.StageSettings(
            guidance_mode="cfg" if is_guided else "none",
            sampler=config.sample.sampler,
            respacing=config.sample.respacing,
            inpaint_mode="pinned" if config.model.inpaint else None,
            match_low_res=config.sample.match_low_res,
        ),
    )
    # Parameters lie over the devices of all processes, so all of them draw, and each
    # has the picture.
    draw = jax.jit(program, out_shardings=sharding.replicated(run.mesh))
    batch = run.grid
    count = len(batch["image"])
    inputs = stage_inputs.StageInputs(
        keys=batches.image_keys(GRID_SEED, np.arange(count), batches.BASE_STREAM),
        caption=stage_inputs.Caption(
            batch["tokens"][:, None], batch["text_mask"][:, None]
        ),
        empty=stage_inputs.Caption(
            *tokenizers.empty_batch(run.tokenizer, 1, config.model.text_context)
        ),
        guidance_scale=config.sample.guidance_scale,
        eta=config.sample.eta,
        noise_temperature=config.sample.noise_temperature,
        low_res=batch.get("low_res"),
        inpaint_image=batch["image"] if config.model.inpaint else None,
        inpaint_mask=batch.get("inpaint_mask"),
    )
    real = images.to_pixels(batch["image"])

    def draw_grid(params: shapes.Params) -> np.ndarray:
        drawn = draw(params, None, stage_inputs.with_array_scalars(inputs))
        drawn = images.to_pixels(drawn)
        return images.make_grid(np.concatenate([real, drawn]), columns=count)

    return draw_grid
