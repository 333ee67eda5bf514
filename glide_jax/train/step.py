"""One training step as a pure function; `jit_train_step` only adds the mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from glide_jax.config.defaults import Config
from glide_jax.diffusion import timestep_sampling
from glide_jax.parallel import sharding
from glide_jax.train import ema, objectives, optimizer, randomness
from glide_jax.train.state import TrainState

# ADM's rule: the scale grows by 2 ** 0.001 a good step and halves on an overflow.
LOSS_SCALE_GROWTH = 1e-3

TrainStep = Callable[
    [TrainState, objectives.Batch], tuple[TrainState, objectives.Metrics]
]


def make_train_step(config: Config, objective: objectives.Objective) -> TrainStep:
    """(state, batch) -> (state, metrics); metrics are (sum, count) pairs.

    An update whose gradient is not finite is skipped: the step counts, the batch is
    consumed, parameters, averages and the history of losses stay.
    """
    optim = optimizer.make_optimizer(config.optim)
    learning_rate = optimizer.make_learning_rate(config.optim, config.train.num_steps)
    is_float16 = config.model.compute_dtype == "float16"

    def train_step(state: TrainState, batch: objectives.Batch):
        def keys_of(stream: str):
            return randomness.example_keys(
                config.seed, stream, state.step, batch["example_index"]
            )

        scale = jnp.exp2(state.log2_loss_scale)

        def scaled_loss(params):
            loss, aux = objective.loss(params, batch, keys_of, state.resampler)
            return loss * scale, aux

        grads, aux = jax.grad(scaled_loss, has_aux=True)(state.params)
        grads = jax.tree.map(lambda g: g / scale, grads)
        grad_norm = optax.global_norm(grads)
        is_finite = jnp.isfinite(grad_norm)
        rate = learning_rate(state.step)

        def apply_update():
            directions, opt_state = optim.update(grads, state.opt_state, state.params)
            params = jax.tree.map(lambda p, d: p - rate * d, state.params, directions)
            params = objective.constrain_params(params)
            averages = ema.update(config.ema, state.ema_params, params, state.updates)
            return params, averages, opt_state

        def skip_update():
            return state.params, state.ema_params, state.opt_state

        params, averages, opt_state = jax.lax.cond(is_finite, apply_update, skip_update)
        resampler = _seen(config, state.resampler, aux, is_finite)
        growth = jnp.where(is_finite, LOSS_SCALE_GROWTH, -1.0) if is_float16 else 0.0
        new_state = TrainState(
            step=state.step + 1,
            updates=state.updates + is_finite,
            log2_loss_scale=state.log2_loss_scale + growth,
            params=params,
            ema_params=averages,
            opt_state=opt_state,
            resampler=resampler,
        )
        one = jnp.float32(1)
        metrics = aux.metrics | {
            "grad_norm": (grad_norm, one),
            "learning_rate": (jnp.asarray(rate, jnp.float32), one),
            "skipped_updates": (jnp.asarray(~is_finite, jnp.float32), one),
        }
        if is_float16:
            metrics["log2_loss_scale"] = (new_state.log2_loss_scale, one)
        return new_state, metrics

    return train_step


def _seen(
    config: Config, resampler: Any, aux: objectives.Aux, is_finite: jax.Array
) -> Any:
    """The resampler's history with this step's losses, where it keeps one."""
    if config.train.timestep_sampling != "loss_second_moment":
        return resampler
    seen = timestep_sampling.update_loss_second_moment(resampler, aux.t, aux.losses)
    # One loss that is not a number would make every later draw one.
    return jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), seen, resampler
    )


def jit_train_step(
    train_step: TrainStep, mesh: Mesh, state_shardings: TrainState
) -> TrainStep:
    """`train_step` over a mesh: state donated, output shardings pinned."""
    return jax.jit(
        train_step,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def make_eval_step(config: Config, objective: objectives.Objective) -> Callable:
    """(params, batch) -> metrics of a validation batch, the same draws every time."""

    def eval_step(params, batch):
        # The step is no part of it, so that losses of different steps compare.
        def keys_of(stream: str):
            del stream  # only the noise is drawn in validation
            return randomness.example_keys(
                config.seed, "validation", 0, batch["example_index"]
            )

        return objective.loss(params, batch, keys_of, {})[1].metrics

    return eval_step
