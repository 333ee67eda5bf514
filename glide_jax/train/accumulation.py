"""Gradient accumulation: the gradient of a batch from several microbatches.

Row r of the batch belongs to microbatch r % n, so that each device splits the rows it
already holds. Every random draw is keyed by its example, so the parts add up to the
result of the whole batch, dropout included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.train import objectives

Pin = Callable[[Any], Any]


def gradient(
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
        grads, auxes = _sum_over(part, params, split(batch, microbatches), pin)
        aux = objectives.Aux(
            join(auxes.t),
            join(auxes.losses),
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
    parts = split(batch, microbatches)
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

    through, _ = _sum_over(part, params, (parts, split(by_features, microbatches)), pin)
    grads = jax.tree.map(lambda a, b: (a + b) / loss_scale, direct, through)
    return grads, aux


def _features(objective, params, parts, make_keys_of):
    """Features of a whole batch from its parts, one after the other."""
    each = jax.lax.map(
        lambda rows: objective.encode(params, rows, make_keys_of(rows)), parts
    )
    return jax.tree.map(join, each)


def metrics(
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
    parts = split(batch, microbatches)
    if objective.contrast is not None:
        features = _features(objective, params, parts, make_keys_of)
        keys_of = make_keys_of(batch)
        return objective.contrast(params, features, batch, keys_of)[1].metrics
    each = jax.lax.map(
        lambda rows: objective.loss(params, rows, make_keys_of(rows), {})[1].metrics,
        parts,
    )
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)


def split(batch: Any, microbatches: int) -> Any:
    """Arrays (B, ...) -> (microbatches, B / microbatches, ...)."""

    def split_rows(x):
        parts = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
        return jnp.swapaxes(parts, 0, 1)

    return jax.tree.map(split_rows, batch)


def join(parts: array_types.Array) -> array_types.Array:
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
