"""One training step as a pure function: gradient, update, averages, metrics.

`placement.py` compiles it for a mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from glide_jax import array_types
from glide_jax.config.defaults import Config
from glide_jax.diffusion import timestep_sampling
from glide_jax.runtime import random_streams
from glide_jax.train import objectives, optimizer, train_state
from glide_jax.train.train_state import TrainState

# ADM's rule: the scale grows by 2 ** 0.001 a good step and halves on an overflow.
LOSS_SCALE_GROWTH = 1e-3
# A loss is compared with the average of this many, after this many updates.
AVERAGED_LOSSES, LOSSES_BEFORE_SPIKES = 100, 20

# Constrains a tree shaped like the parameters to their shardings.
Pin = Callable[[Any], Any]
# Details of a skipped update: for each example, (B,), its example_index, timestep and
# loss; for the batch whether it was a loss_spike, and skipped_in_a_row.
Details = dict[str, array_types.Array]
TrainStep = Callable[..., tuple[TrainState, objectives.Metrics, Details]]


class UpdateCheck(NamedTuple):
    """Whether an update may be applied: float32 and bool scalars."""

    loss: jax.Array
    grad_norm: jax.Array
    is_finite: jax.Array
    is_spike: jax.Array
    is_good: jax.Array


def make_train_step(
    config: Config,
    objective: objectives.Objective,
    *,
    pin: Pin = lambda tree: tree,
) -> TrainStep:
    """(state, batch, seed, teacher=None) -> (state, metrics, details).

    `teacher` holds the parameters of a student's teacher, which no step changes.
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
        state: TrainState,
        batch: objectives.Batch,
        seed: random_streams.Seed,
        teacher: array_types.Params | None = None,
    ):
        def make_keys_of(rows):
            return lambda stream: random_streams.example_keys(
                seed, stream, state.step, rows["example_index"]
            )

        grads, aux = accumulate_gradient(
            objective.with_teacher(teacher),
            state.params,
            batch,
            make_keys_of,
            state.resampler,
            microbatches=config.train.microbatches,
            loss_scale=jnp.exp2(state.log2_loss_scale),
            pin=pin,
        )
        check = _check_update(config, state, grads, aux)
        rate = learning_rate(state.step)
        directions, opt_state = optim.update(
            grads, state.opt_state, state.params, is_good=check.is_good
        )
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, directions)
        params = objective.constrain_params(params)
        new_state = _next_state(config, state, params, opt_state, aux, check)
        metrics = _metrics(config, state, new_state, check, rate)
        return new_state, aux.metrics | metrics, _details(batch, new_state, aux, check)

    return train_step


def _check_update(
    config: Config, state: TrainState, grads: array_types.Params, aux: objectives.Aux
) -> UpdateCheck:
    """Compares the loss and the gradient of a step with the limits of the settings."""
    grad_norm = optax.global_norm(grads)
    loss = jnp.mean(aux.losses)
    is_finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
    is_spike = is_finite & _is_spike(config, state, loss)
    return UpdateCheck(loss, grad_norm, is_finite, is_spike, is_finite & ~is_spike)


def _next_state(
    config: Config,
    state: TrainState,
    params: array_types.Params,
    opt_state: Any,
    aux: objectives.Aux,
    check: UpdateCheck,
) -> TrainState:
    """The state after a step, with the updated `params` if the update is good."""
    params = optax.tree.where(check.is_good, params, state.params)
    params = optimizer.compute_once(params)
    averages = train_state.update_averages(
        config.ema, state.ema_params, params, state.updates
    )
    averages = optax.tree.where(check.is_good, averages, state.ema_params)
    return TrainState(
        step=state.step + 1,
        updates=state.updates + check.is_good,
        log2_loss_scale=_next_loss_scale(
            config, state.log2_loss_scale, check.is_finite
        ),
        skipped_in_a_row=jnp.where(check.is_good, 0, state.skipped_in_a_row + 1),
        loss_average=jnp.where(
            check.is_good, _average_loss(state, check.loss), state.loss_average
        ),
        params=params,
        ema_params=averages,
        opt_state=opt_state,
        resampler=_update_resampler(config, state.resampler, aux, check.is_good),
    )


def _metrics(
    config: Config,
    state: TrainState,
    new_state: TrainState,
    check: UpdateCheck,
    rate: jax.typing.ArrayLike,
) -> objectives.Metrics:
    """Metrics of the update, beside those of the objective."""
    values = {
        "grad_norm": check.grad_norm,
        "learning_rate": rate,
        "skipped_updates": ~check.is_good,
    }
    if config.train.skip_loss_above:
        values["loss_spikes"] = check.is_spike
    if config.model.compute_dtype == "float16":
        at_floor = state.log2_loss_scale <= config.train.min_log2_loss_scale
        values["log2_loss_scale"] = new_state.log2_loss_scale
        values["overflows_at_floor"] = at_floor & ~check.is_finite
    return {
        name: (jnp.asarray(value, jnp.float32), jnp.float32(1))
        for name, value in values.items()
    }


def _details(
    batch: objectives.Batch,
    new_state: TrainState,
    aux: objectives.Aux,
    check: UpdateCheck,
) -> Details:
    return {
        "skipped_in_a_row": new_state.skipped_in_a_row,
        "loss_spike": check.is_spike,
        "example_index": batch["example_index"],
        "timestep": aux.t,
        "loss": aux.losses,
    }


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
    return optax.tree.where(is_good, seen, resampler)


def make_eval_step(config: Config, objective: objectives.Objective) -> Callable:
    """(params, batch, seed, teacher=None) -> metrics of a validation batch.

    Its draws are the same at every step.
    """

    def eval_step(params, batch, seed, teacher=None):
        # Independent of the step, so that losses of different steps are comparable.
        def make_keys_of(rows):
            return lambda stream: random_streams.validation_keys(
                seed, stream, rows["example_index"]
            )

        return accumulate_metrics(
            objective.with_teacher(teacher),
            params,
            batch,
            make_keys_of,
            microbatches=config.train.microbatches,
        )

    return eval_step


def accumulate_gradient(
    objective: objectives.Objective,
    params: array_types.Params,
    batch: objectives.Batch,
    make_keys_of: Callable[[objectives.Batch], Callable],
    resampler: Any,
    *,
    microbatches: int,
    loss_scale: jax.Array,
    pin: Pin,
) -> tuple[array_types.Params, objectives.Aux]:
    """The gradient of the batch's mean loss, and the objective's other results.

    It is computed in parts of the batch. Row r belongs to microbatch r % n, so that
    each device splits the rows that it holds. Every random draw is keyed by its
    example, so the parts add up to the result of the whole batch, dropout included.

    Args:
      objective: per-example losses, or features and a contrast of the whole batch.
      params: parameters, float32.
      batch: global arrays, batch axis first.
      make_keys_of: batch -> (stream -> the keys of its examples).
      resampler: loss history, for objectives that sample timesteps by it.
      microbatches: number of parts; it divides the batch.
      loss_scale: scalar that the loss is multiplied by while gradients are computed.
      pin: constrains a tree shaped like the parameters to their shardings.
    """
    if objective.contrast is not None and microbatches > 1:
        return _contrastive_gradient(
            objective, params, batch, make_keys_of, microbatches, loss_scale, pin
        )

    def part(rows):
        def scaled_loss(params):
            keys_of = make_keys_of(rows)
            loss, aux = objective.loss(params, rows, keys_of, resampler)
            return loss * loss_scale / microbatches, aux

        grads, aux = jax.grad(scaled_loss, has_aux=True)(params)
        return pin(grads), aux

    if microbatches == 1:
        grads, aux = part(batch)
    else:
        grads, auxes = _sum_over(part, params, split_rows(batch, microbatches), pin)
        aux = objectives.Aux(
            join_rows(auxes.t),
            join_rows(auxes.losses),
            jax.tree.map(lambda x: jnp.sum(x, axis=0), auxes.metrics),
        )
    return jax.tree.map(lambda g: g / loss_scale, grads), aux


def _contrastive_gradient(
    objective, params, batch, make_keys_of, microbatches, loss_scale, pin
):
    """Cached features (GradCache, arXiv 2101.06983): one loss over all pairs.

    First the features of every part, without storing activations; then the contrast of
    all of them, and its gradient with respect to the features; then each part again, to
    backpropagate that gradient to the parameters.
    """
    parts = split_rows(batch, microbatches)
    features = _features(objective, params, parts, make_keys_of)

    def scaled_contrast(params, features):
        loss, aux = objective.contrast(params, features, batch, make_keys_of(batch))
        return loss * loss_scale, aux

    (direct, by_features), aux = jax.grad(
        scaled_contrast, argnums=(0, 1), has_aux=True
    )(params, features)

    def part(rows_and_gradient):
        rows, feature_gradient = rows_and_gradient
        keys_of = make_keys_of(rows)
        _, back = jax.vjp(lambda p: objective.encode(p, rows, keys_of), params)
        return pin(back(feature_gradient)[0]), None

    through, _ = _sum_over(
        part, params, (parts, split_rows(by_features, microbatches)), pin
    )
    grads = jax.tree.map(lambda a, b: (a + b) / loss_scale, direct, through)
    return grads, aux


def _features(objective, params, parts, make_keys_of):
    """Features of a whole batch from its parts, one after the other."""
    each = jax.lax.map(
        lambda rows: objective.encode(params, rows, make_keys_of(rows)), parts
    )
    return jax.tree.map(join_rows, each)


def accumulate_metrics(
    objective: objectives.Objective,
    params: array_types.Params,
    batch: objectives.Batch,
    make_keys_of: Callable[[objectives.Batch], Callable],
    *,
    microbatches: int,
) -> objectives.Metrics:
    """The metrics of a batch, computed in parts and without a gradient."""
    if microbatches == 1:
        return objective.loss(params, batch, make_keys_of(batch), {})[1].metrics
    parts = split_rows(batch, microbatches)
    if objective.contrast is not None:
        features = _features(objective, params, parts, make_keys_of)
        keys_of = make_keys_of(batch)
        return objective.contrast(params, features, batch, keys_of)[1].metrics
    each = jax.lax.map(
        lambda rows: objective.loss(params, rows, make_keys_of(rows), {})[1].metrics,
        parts,
    )
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)


def split_rows(batch: Any, microbatches: int) -> Any:
    """Arrays (B, ...) -> (microbatches, B / microbatches, ...)."""

    def split_array(x):
        parts = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
        return jnp.swapaxes(parts, 0, 1)

    return jax.tree.map(split_array, batch)


def join_rows(parts: array_types.Array) -> array_types.Array:
    """The inverse of `split`: (n, B / n, ...) -> (B, ...)."""
    rows = jnp.swapaxes(parts, 0, 1)
    return rows.reshape(rows.shape[0] * rows.shape[1], *rows.shape[2:])


def _sum_over(
    part: Callable, params: array_types.Params, parts: Any, pin: Pin
) -> tuple:
    """The sum of part's gradients over the leading axis, and its other results."""

    def add(total, rows):
        grads, aux = part(rows)
        return pin(jax.tree.map(jnp.add, total, grads)), aux

    zeros = pin(jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, parts)
