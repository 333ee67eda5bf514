"""The state of a training run at one step, as a pytree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Int

from glide_jax import array_types
from glide_jax.config.defaults import Config, EmaConfig
from glide_jax.diffusion import timestep_sampling

COUNTERS = (
    "step",
    "updates",
    "log2_loss_scale",
    "skipped_in_a_row",
    "loss_average",
)

# The entry of the parameters that holds the second network of train.student_loss=
# match_moments. It has no averages, and is not exported.
AUXILIARY = "auxiliary"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: int32 scalar, batches consumed, skipped updates included; it alone
        determines the data and the random draws.
      updates: int32 scalar, optimizer updates applied; used by the averages' warm-up.
      log2_loss_scale: float32 scalar; 0 unless compute_dtype is float16.
      skipped_in_a_row: int32 scalar, updates skipped since the last one applied.
      loss_average: float32 scalar, average loss of the applied updates.
      params: float32 parameters; see AUXILIARY.
      ema_params: averages of the model's parameters, keyed by decay as a string.
      opt_state: state of the optax chain.
      resampler: loss-second-moment history, or {} if timesteps need none.
    """

    step: jax.Array | Any  # Any: shapes, shardings
    updates: jax.Array | Any
    log2_loss_scale: jax.Array | Any
    skipped_in_a_row: jax.Array | Any
    loss_average: jax.Array | Any
    params: array_types.Params
    ema_params: dict[str, array_types.Params]
    opt_state: Any
    resampler: Any


def make_state(
    config: Config, params: array_types.Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step; averages start as copies of `params`."""
    is_float16 = config.model.compute_dtype == "float16"
    history: Any = {}
    if config.train.timestep_sampling == "loss_second_moment":
        history = timestep_sampling.init_loss_second_moment(
            config.diffusion.num_timesteps
        )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        log2_loss_scale=jnp.float32(
            config.train.init_log2_loss_scale if is_float16 else 0.0
        ),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        loss_average=jnp.zeros((), jnp.float32),
        params=params,
        ema_params={
            str(decay): jax.tree.map(jnp.copy, without_auxiliary(params))
            for decay in config.ema.decays
        },
        opt_state=optimizer.init(params),
        resampler=history,
    )
    # Initializers return weakly typed zeros and ones, but a step does not: it would be
    # compiled a second time for its own output.
    return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), state)


def with_auxiliary(
    params: array_types.Params, auxiliary: array_types.Params
) -> array_types.Params:
    """The parameters of a model and those of the network that trains beside it."""
    return {**params, AUXILIARY: auxiliary}


def without_auxiliary(params: array_types.Params) -> array_types.Params:
    """The parameters of the model alone."""
    return {name: part for name, part in params.items() if name != AUXILIARY}


def to_items(state: TrainState) -> dict[str, Any]:
    """The state as the named items of a checkpoint."""
    items = {
        "params": state.params,
        "ema_params": state.ema_params,
        "opt_state": state.opt_state,
        "counters": {name: getattr(state, name) for name in COUNTERS},
    }
    # Orbax stores no empty item.
    return items | ({"resampler": state.resampler} if state.resampler else {})


def from_items(items: dict[str, Any]) -> TrainState:
    """The inverse of `to_items`."""
    return TrainState(
        params=items["params"],
        ema_params=items["ema_params"],
        opt_state=items["opt_state"],
        resampler=items.get("resampler", {}),
        **items["counters"],
    )


Count = Int[array_types.Array, ""] | int


def decay_at(decay: float, updates: Count, *, warmup: bool) -> jax.Array:
    """The decay d_k of update number k = `updates`, from 0; see `update_averages`."""
    if not warmup:
        return jnp.float32(decay)
    k = jnp.asarray(updates, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + k) / (10 + k))


def update_averages(
    config: EmaConfig,
    ema_params: dict[str, array_types.Params],
    params: array_types.Params,
    updates: Count,
) -> dict[str, array_types.Params]:
    """Exponential moving averages of the parameters, one for each of ema.decays.

    ema_k = d_k ema_{k-1} + (1 - d_k) params_k, without bias correction (the averages
    start as the parameters). With warm-up d_k = min(decay, (1 + k) / (10 + k)), k
    counted from 0: otherwise the initial values dominate a 0.9999 average for the first
    10,000 steps.

    With ema.every_steps = n the averages are updated every n-th step only, with
    d_k ** n: the same horizon for 1/n of the memory traffic.
    """
    params = without_auxiliary(params)

    def average_all():
        return {
            str(decay): _average(config, decay, ema_params[str(decay)], params, updates)
            for decay in config.decays
        }

    if config.every_steps == 1:
        return average_all()
    is_due = (updates + 1) % config.every_steps == 0
    return jax.lax.cond(is_due, average_all, lambda: ema_params)


def _average(
    config: EmaConfig,
    decay: float,
    average: array_types.Params,
    params: array_types.Params,
    updates: Count,
) -> array_types.Params:
    d = decay_at(decay, updates, warmup=config.warmup) ** config.every_steps
    return jax.tree.map(lambda old, new: old + (1 - d) * (new - old), average, params)
