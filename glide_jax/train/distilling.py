"""What a student learns from its teacher; see diffusion/distillation.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.config.defaults import Config
from glide_jax.diffusion import distillation, process, respacing
from glide_jax.models import build
from glide_jax.train import teachers

# (teacher's params, x_start, x_t, t, tokens, text_mask, scale or None, conditions)
# -> x_target, with t an index into `student_tables`.
Target = Callable[..., array_types.Image]


def student_tables(config: Config) -> process.DiffusionTables:
    """The chain that a student of halved steps learns; of a fold, the whole chain."""
    return _tables(config, config.train.student_steps, config.diffusion.prediction)


def make_target(
    config: Config, pad_id: int, teacher_prediction: str, **hooks: Any
) -> Target:
    """Returns the target of a run with a teacher.

    Args:
      config: settings of the student.
      pad_id: token of the empty caption.
      teacher_prediction: what the teacher predicts, one of process.PREDICTIONS.
      **hooks: of `build.make_denoiser`.
    """
    fns = build.make_denoiser(teachers.model_of(config, teacher_prediction), **hooks)
    make = _folded if teachers.is_fold(config) else _halved
    tables = _tables(config, 2 * config.train.student_steps, teacher_prediction)

    def target(*arguments: Any) -> array_types.Image:
        return jax.lax.stop_gradient(make(fns, tables, pad_id, *arguments))

    return target


def _folded(
    fns, tables, pad_id, params, x_start, x_t, t, tokens, text_mask, scale, conditions
) -> array_types.Image:
    """Both rows of the teacher, with the caption and with the empty one, as a batch."""
    text = fns.encode(
        params,
        jnp.concatenate([tokens, jnp.full_like(tokens, pad_id)]),
        jnp.concatenate([text_mask, jnp.zeros_like(text_mask)]),
    )
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), conditions)
    output = fns.denoise(
        params,
        jnp.concatenate([x_t, x_t]),
        jnp.tile(tables.timesteps[t], 2),
        text,
        **twice,
    )
    cond, uncond = jnp.split(output, 2)
    x_target = distillation.folded_target(tables, cond, uncond, x_t, t, scale)
    return distillation.reliable_target(tables, x_target, x_start, t)


def _halved(
    fns, tables, pad_id, params, x_start, x_t, t, tokens, text_mask, scale, conditions
) -> array_types.Image:
    text = fns.encode(params, tokens, text_mask)

    def denoise(images, timesteps):
        return fns.denoise(
            params, images, timesteps, text, guidance_scale=scale, **conditions
        )

    return distillation.halved_target(denoise, tables, x_t, t, x_start)


def _tables(config: Config, steps: int, prediction: str) -> process.DiffusionTables:
    diffusion = config.diffusion
    return respacing.respaced_tables(
        diffusion.schedule,
        diffusion.num_timesteps,
        f"grid{steps}" if steps else "",
        prediction=prediction,
    )
