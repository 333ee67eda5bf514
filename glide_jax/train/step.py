"""One training step as a pure function; `jit_train_step` only adds the mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from glide_jax.config.defaults import Config
from glide_jax.diffusion import timestep_sampling
from glide_jax.parallel import sharding
from glide_jax.runtime import random_streams
from glide_jax.train import accumulation, objectives, optimizer, train_state
from glide_jax.train.train_state import TrainState

# ADM's rule: the scale grows by 2 ** 0.001 a good step and halves on an overflow.
LOSS_SCALE_GROWTH = 1e-3
# A loss is compared with the average of this many, after this many updates.
AVERAGED_LOSSES, LOSSES_BEFORE_SPIKES = 100, 20

# Details of a skipped update: for each example, (B,), its example_index, timestep and
# loss; for the batch whether it was a loss_spike, and skipped_in_a_row.
Details = dict[str, jax.Array]
TrainStep = Callable[
    [TrainState, objectives.Batch, random_streams.Seed],
    tuple[TrainState, objectives.Metrics, Details],
]


def make_train_step(
    config: Config,
    objective: objectives.Objective,
    *,
    pin: accumulation.Pin = lambda tree: tree,
) -> TrainStep:
    """(state, batch, seed) -> (state, metrics, details).

    Metrics are (sum, count) pairs. The seed is an argument and not a constant of the
    program: a sweep over seeds compiles once.

    An update whose gradient is not finite, or whose loss is a spike
    (train.skip_loss_above), is skipped: the step counts and the batch is consumed, but
    parameters, averages and the loss history stay. `pin` constrains gradients to the
    shardings of the parameters.
    """
    optim = optimizer.make_optimizer(config.optim)
    learning_rate = optimizer.make_learning_rate(config.optim, config.train.num_steps)

    def train_step(
        state: TrainState, batch: objectives.Batch, seed: random_streams.Seed
    ):
        def make_keys_of(rows):
            return lambda stream: random_streams.example_keys(
                seed, stream, state.step, rows["example_index"]
            )

        grads, aux = accumulation.gradient(
            objective,
            state.params,
            batch,
            make_keys_of,
            state.resampler,
            microbatches=config.train.microbatches,
            loss_scale=jnp.exp2(state.log2_loss_scale),
            pin=pin,
        )
        grad_norm = optax.global_norm(grads)
        loss = jnp.mean(aux.losses)
        is_finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
        is_spike = is_finite & _is_spike(config, state, loss)
        is_good = is_finite & ~is_spike
        rate = learning_rate(state.step)
        directions, opt_state = optim.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, directions)
        params = objective.constrain_params(params)
        averages = train_state.update_averages(
            config.ema, state.ema_params, params, state.updates
        )
        # Selected leaf by leaf, so that no copy of the whole state is needed.
        params, averages, opt_state = jax.tree.map(
            lambda new, old: jnp.where(is_good, new, old),
            (params, averages, opt_state),
            (state.params, state.ema_params, state.opt_state),
        )
        new_state = TrainState(
            step=state.step + 1,
            updates=state.updates + is_good,
            log2_loss_scale=_next_loss_scale(config, state.log2_loss_scale, is_finite),
            skipped_in_a_row=jnp.where(is_good, 0, state.skipped_in_a_row + 1),
            loss_average=jnp.where(
                is_good, _average_loss(state, loss), state.loss_average
            ),
            params=params,
            ema_params=averages,
            opt_state=opt_state,
            resampler=_update_resampler(config, state.resampler, aux, is_good),
        )
        metrics = aux.metrics | {
            name: (jnp.asarray(value, jnp.float32), jnp.float32(1))
            for name, value in {
                "grad_norm": grad_norm,
                "learning_rate": rate,
                "skipped_updates": ~is_good,
                **_extra_metrics(config, state, new_state, is_finite, is_spike),
            }.items()
        }
        details = {
            "skipped_in_a_row": new_state.skipped_in_a_row,
            "loss_spike": is_spike,
            "example_index": batch["example_index"],
            "timestep": aux.t,
            "loss": aux.losses,
        }
        return new_state, metrics, details

    return train_step


def _extra_metrics(
    config: Config,
    state: TrainState,
    new_state: TrainState,
    is_finite: jax.Array,
    is_spike: jax.Array,
) -> dict[str, jax.Array]:
    """Metrics of optional features: skipping spikes, scaling a float16 loss."""
    metrics = {}
    if config.train.skip_loss_above:
        metrics["loss_spikes"] = is_spike
    if config.model.compute_dtype == "float16":
        at_floor = state.log2_loss_scale <= config.train.min_log2_loss_scale
        metrics["log2_loss_scale"] = new_state.log2_loss_scale
        metrics["overflows_at_floor"] = at_floor & ~is_finite
    return metrics


def _is_spike(config: Config, state: TrainState, loss: jax.Array) -> jax.Array:
    """Whether a loss exceeds the limit given by the previous losses."""
    factor = config.train.skip_loss_above
    if not factor:
        return jnp.bool_(False)
    is_known = state.updates >= LOSSES_BEFORE_SPIKES
    return is_known & (loss > factor * state.loss_average)


def _average_loss(state: TrainState, loss: jax.Array) -> jax.Array:
    """The average of the losses so far, later of about the last AVERAGED_LOSSES."""
    count = jnp.minimum(state.updates + 1, AVERAGED_LOSSES)
    return state.loss_average + (loss - state.loss_average) / count


def _next_loss_scale(
    config: Config, log2_loss_scale: jax.Array, is_finite: jax.Array
) -> jax.Array:
    """ADM's rule, with a minimum; only float16 has a scale."""
    if config.model.compute_dtype != "float16":
        return log2_loss_scale
    moved = log2_loss_scale + jnp.where(is_finite, LOSS_SCALE_GROWTH, -1.0)
    return jnp.maximum(moved, config.train.min_log2_loss_scale)


def _update_resampler(
    config: Config, resampler: Any, aux: objectives.Aux, is_good: jax.Array
) -> Any:
    """The resampler's history with this step's losses, if it has one."""
    if config.train.timestep_sampling != "loss_second_moment":
        return resampler
    seen = timestep_sampling.update_loss_second_moment(resampler, aux.t, aux.losses)
    # A single NaN loss would make every later draw NaN.
    return jax.tree.map(lambda new, old: jnp.where(is_good, new, old), seen, resampler)


def jit_train_step(
    train_step: TrainStep, mesh: Mesh, state_shardings: TrainState
) -> TrainStep:
    """`train_step` over a mesh: state donated, output shardings pinned.

    Arrays in host memory between steps are copied to the devices for the update, and
    back by the output shardings.
    """
    on_devices = sharding.on_devices(state_shardings)
    everywhere = sharding.replicated(mesh)

    def step_on_devices(state, batch, seed):
        if on_devices != state_shardings:
            state = jax.device_put(state, on_devices)
        return train_step(state, batch, seed)

    return jax.jit(
        step_on_devices,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh), everywhere),
        out_shardings=(state_shardings, everywhere, everywhere),
        donate_argnums=0,
    )


def jit_skip_batch(state_shardings: TrainState) -> Callable[[TrainState], TrainState]:
    """state -> the state after a batch that was consumed without an update."""

    def skip_batch(state):
        return dataclasses.replace(
            state,
            step=state.step + 1,
            skipped_in_a_row=jnp.zeros_like(state.skipped_in_a_row),
        )

    return jax.jit(
        skip_batch,
        in_shardings=(state_shardings,),
        out_shardings=state_shardings,
        donate_argnums=0,
    )


def pin_to(params_shardings: Any) -> accumulation.Pin:
    """Constrains a tree shaped like the parameters to their shardings.

    Without it the compiler may replicate gradients on every device.
    """

    def pin(tree):
        return jax.tree.map(jax.lax.with_sharding_constraint, tree, params_shardings)

    return pin


def make_eval_step(config: Config, objective: objectives.Objective) -> Callable:
    """(params, batch, seed) -> metrics of a validation batch, with fixed draws."""

    def eval_step(params, batch, seed):
        # Independent of the step, so that losses of different steps are comparable;
        # validation draws from the noise stream only.
        def make_keys_of(rows):
            return lambda stream: random_streams.example_keys(
                seed, "validation", 0, rows["example_index"]
            )

        return accumulation.metrics(
            objective,
            params,
            batch,
            make_keys_of,
            microbatches=config.train.microbatches,
        )

    return eval_step
