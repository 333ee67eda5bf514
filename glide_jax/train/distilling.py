"""How a student learns; see diffusion/distillation.py and diffusion/moments.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.config.defaults import Config
from glide_jax.diffusion import distillation, losses, moments, process, respacing
from glide_jax.models import build
from glide_jax.train import teachers
from glide_jax.train.train_state import AUXILIARY

# Terms of the loss per example, "loss" among them.
Terms = dict[str, array_types.PerExample]
# (params, teacher's params, model_output, Examples, keys_of) -> Terms
StudentLoss = Callable[..., Terms]


class Examples(NamedTuple):
    """What a student and its teacher read.

    Attributes:
      x_start: clean pictures.
      x_t: noised pictures.
      t: (B,) indices into `student_tables`.
      tokens, text_mask: captions, some of them empty.
      scale: guidance scales, or None.
      conditions: low_res, or the known pixels and their mask.
    """

    x_start: array_types.Image
    x_t: array_types.Image
    t: array_types.Timesteps
    tokens: array_types.Tokens
    text_mask: array_types.TextMask
    scale: array_types.PerExample | None
    conditions: dict[str, Any]


def student_tables(config: Config) -> process.DiffusionTables:
    """The chain that a student of halved steps learns; of a fold, the whole chain."""
    return _tables(config, config.train.student_steps, config.diffusion.prediction)


def make_loss(
    config: Config, pad_id: int, teacher_prediction: str, **hooks: Any
) -> StudentLoss:
    """Returns the loss of a run with a teacher.

    Args:
      config: settings of the student.
      pad_id: token of the empty caption.
      teacher_prediction: what the teacher predicts, one of process.PREDICTIONS.
      **hooks: of `build.make_denoiser`.
    """
    model = teachers.model_of(config, teacher_prediction)
    fns = build.make_denoiser(model, prediction=teacher_prediction, **hooks)
    if teachers.matches_moments(config):
        return _matching(config, fns)
    make = _folded if teachers.is_fold(config) else _halved
    tables = _tables(config, 2 * config.train.student_steps, teacher_prediction)
    own_tables = student_tables(config)

    def loss(params, teacher, model_output, examples, keys_of) -> Terms:
        target = jax.lax.stop_gradient(make(fns, tables, pad_id, teacher, *examples))
        return losses.truncated_snr(
            own_tables, model_output, target, examples.x_t, examples.t
        )

    return loss


def _matching(config: Config, fns: build.DenoiserFns) -> StudentLoss:
    """The losses of the student and of the network beside it, `diffusion.moments`."""
    tables = student_tables(config)
    chain = _tables(config, 0, config.diffusion.prediction)

    def loss(params, teacher, model_output, examples, keys_of) -> Terms:
        _, x_t, index, tokens, text_mask, scale, conditions = examples
        x_student = process.predict(tables, model_output, x_t, index).x_start
        t, first = tables.timesteps[index], jnp.maximum(index - 1, 0)
        next_t = jnp.where(index > 0, tables.timesteps[first], 0)
        draw_s = jax.vmap(lambda key, low, high: jax.random.randint(key, (), low, high))
        s = draw_s(keys_of("earlier_timestep"), next_t, t)
        draw_noise = jax.vmap(lambda key: jax.random.normal(key, x_t.shape[1:]))
        z_s = moments.posterior_sample(
            chain,
            jnp.clip(jax.lax.stop_gradient(x_student), -1, 1),
            *(x_t, t, s, draw_noise(keys_of("posterior_noise"))),
        )

        def estimate(network) -> array_types.Image:
            text = fns.encode(network, tokens, text_mask)
            output = fns.denoise(
                network, z_s, s, text, guidance_scale=scale, **conditions
            )
            return process.predict(chain, output, z_s, s).x_start

        found = moments.matching_losses(
            x_student, estimate(params[AUXILIARY]), estimate(teacher)
        )
        total = moments.weight(chain, s) * sum(found.values())
        return {"loss": total} | {k: v for k, v in found.items() if k != "student"}

    return loss


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
