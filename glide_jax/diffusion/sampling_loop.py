"""The loop that applies the steps of a sampler, forwards and in reverse.

`samplers.SAMPLERS` lists the samplers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import guidance, multistep, process, samplers, single_step
from glide_jax.runtime import random_streams

# (x_t, timesteps on the training chain) -> model_output
Denoise = Callable[[array_types.Image, array_types.Timesteps], process.ModelOutput]
# (x_t, timesteps on the training chain) -> gradient, shaped as x_t
GradientFn = Callable[[array_types.Image, array_types.Timesteps], array_types.Image]
# (x_prev, t of the step just made) -> x_prev, e.g. to restore known pixels
AfterStep = Callable[[array_types.Image, array_types.Timesteps], array_types.Image]


class WalkState(NamedTuple):
    """The state between two steps of `walk`.

    Attributes:
      x_t: (b, h, w, c).
      earlier: estimates of earlier steps for a multistep rule, each (b, h, w, c).
    """

    x_t: array_types.Image
    earlier: tuple[array_types.Image, ...]


def initial_noise(
    keys: array_types.PRNGKeys,
    shape: tuple[int, ...],
    scale: array_types.Scalar = 1.0,
) -> array_types.Image:
    """Returns the starting x_t, (b, *shape): one normal draw per key, times scale.

    GLIDE's upsampler starts from scale 0.997.
    """
    return scale * _normal(
        keys, jnp.full(keys.shape, random_streams.INITIAL_NOISE), shape
    )


def step_noise(
    keys: array_types.PRNGKeys, t: array_types.Timesteps, shape: tuple[int, ...]
) -> array_types.Image:
    """Returns the noise of step t, (b, *shape), a function of each key and t alone."""
    return _normal(keys, jnp.asarray(t), shape)


def sample_loop(
    denoise: Denoise,
    tables: process.DiffusionTables,
    x_init: array_types.Image,
    keys: array_types.PRNGKeys,
    *,
    rule: str = "ddpm",
    eta: array_types.Scalar = 0.0,
    num_steps: multistep.Count | None = None,
    gradient_fn: GradientFn | None = None,
    denoised_fn: process.DenoisedFn | None = None,
    clip_denoised: bool = True,
    after_step: AfterStep | None = None,
) -> array_types.Image:
    """Returns images x_start, (b, h, w, c): one rule applied down to index 0.

    Args:
      denoise: (x_t, timesteps) -> model_output, with timesteps of the training chain.
      tables: the (respaced) chain.
      x_init: x_t at the first index: the starting noise of `initial_noise`, or
          with num_steps an image noised (process.q_sample) or inverted (`invert`) to
          index num_steps - 1.
      keys: one typed key per image; its noise does not depend on its batch.
      rule: static; one of samplers.SAMPLERS.
      eta: DDIM's share of fresh noise, in [0, 1]; may be traced. Others ignore it.
      num_steps: apply only the indices num_steps - 1 to 0; 0 returns x_init. None, or
          more than the chain has, is the whole chain. May be traced.
      gradient_fn: (x_t, timesteps) -> guidance gradient, or None.
      denoised_fn: static; see process.p_mean_variance.
      clip_denoised: static; clip every pred_x_start to [-1, 1].
      after_step: static; (x_prev, t) -> x_prev, applied after each step from t.

    Raises:
      UserError: unknown rule.
    """
    num_steps = _bounded(num_steps, tables)
    return walk(
        denoise,
        tables,
        start(x_init, rule),
        keys,
        0,
        num_steps,
        rule=rule,
        eta=eta,
        num_steps=num_steps,
        gradient_fn=gradient_fn,
        denoised_fn=denoised_fn,
        clip_denoised=clip_denoised,
        after_step=after_step,
    ).x_t


def start(x_init: array_types.Image, rule: str) -> WalkState:
    """Returns the state before the first step of `walk`.

    Raises:
      UserError: unknown rule.
    """
    x_init = jnp.asarray(x_init, jnp.float32)
    memory = samplers.find_sampler(rule).memory
    return WalkState(x_init, (jnp.zeros_like(x_init),) * memory)


def walk(
    denoise: Denoise,
    tables: process.DiffusionTables,
    state: WalkState,
    keys: array_types.PRNGKeys,
    first: multistep.Count,
    stop: multistep.Count,
    *,
    rule: str = "ddpm",
    eta: array_types.Scalar = 0.0,
    num_steps: multistep.Count | None = None,
    gradient_fn: GradientFn | None = None,
    denoised_fn: process.DenoisedFn | None = None,
    clip_denoised: bool = True,
    after_step: AfterStep | None = None,
) -> WalkState:
    """Applies steps `first` to `stop` - 1 of the `num_steps` of `sample_loop`.

    Consecutive parts, each started from the state of the previous one, return the
    same images as one call. `state` is from `start` or from the previous part; `first`
    is the number of steps applied before, `stop` the number applied afterwards, at most
    num_steps. Both may be traced. The other arguments are those of `sample_loop`, and
    the same in every part.

    Raises:
      UserError: unknown rule.
    """
    apply_rule = samplers.find_sampler(rule).load_rule()
    num_steps = _bounded(num_steps, tables)

    def evaluate(x_t, t):
        timesteps = tables.timesteps[t]
        gradient = None if gradient_fn is None else gradient_fn(x_t, timesteps)
        return denoise(x_t, timesteps), gradient

    def body(walked: jax.Array, state: WalkState) -> WalkState:
        x_t, earlier = state
        t = jnp.full(x_t.shape[:1], num_steps - 1 - walked, jnp.int32)
        x_prev, earlier = apply_rule(
            evaluate,
            tables,
            x_t,
            t,
            noise=step_noise(keys, t, x_t.shape[1:]),
            eta=eta,
            earlier=earlier,
            num_earlier=walked,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
        )
        return WalkState(
            x_prev if after_step is None else after_step(x_prev, t), earlier
        )

    return jax.lax.fori_loop(first, stop, body, state)


def predict(
    denoise: Denoise,
    tables: process.DiffusionTables,
    state: WalkState,
    num_left: multistep.Count,
    *,
    gradient_fn: GradientFn | None = None,
    denoised_fn: process.DenoisedFn | None = None,
    clip_denoised: bool = True,
) -> array_types.Image:
    """Returns the x_start that the network predicts between two steps, (b, h, w, c).

    `num_left` is the number of steps still to make; with 0, x_t itself is x_start. The
    other arguments are those of `walk`.
    """
    t = jnp.full(state.x_t.shape[:1], jnp.maximum(num_left - 1, 0), jnp.int32)
    timesteps = tables.timesteps[t]
    predicted, _ = guidance.estimate(
        tables,
        denoise(state.x_t, timesteps),
        state.x_t,
        t,
        None if gradient_fn is None else gradient_fn(state.x_t, timesteps),
        clip_denoised,
        denoised_fn,
    )
    return jnp.where(num_left > 0, predicted, state.x_t)


def invert(
    denoise: Denoise,
    tables: process.DiffusionTables,
    x_start: array_types.Image,
    *,
    num_steps: multistep.Count | None = None,
    denoised_fn: process.DenoisedFn | None = None,
    clip_denoised: bool = True,
) -> array_types.Image:
    """Returns x_t at index num_steps - 1 from which DDIM, eta = 0, restores x_start.

    Eq. 3 from index 0 up, where x_start itself stands for x_t (reference), so that it
    costs num_steps - 1 network calls. Arguments as in `sample_loop`; 0 and 1 steps
    return x_start.

    The image is restored up to the first-order error of both directions, clipped or
    not. Without clipping, the estimates of a guided network leave [-1, 1] and x_t
    becomes larger than the starting noise of samplers. `sample_loop` must clip: at the
    noisiest index an error of eps is amplified by up to 2e4 in an unclipped x_start.
    """
    num_steps = _bounded(num_steps, tables)

    def body(index: jax.Array, x_t: array_types.Image) -> array_types.Image:
        t = jnp.full(x_t.shape[:1], index, jnp.int32)
        return single_step.ddim_reverse_step(
            tables,
            denoise(x_t, tables.timesteps[t]),
            x_t,
            t,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
        ).x_next

    x_start = jnp.asarray(x_start, jnp.float32)
    return jax.lax.fori_loop(0, num_steps - 1, body, x_start)


def _bounded(
    num_steps: multistep.Count | None, tables: process.DiffusionTables
) -> multistep.Count:
    """Returns num_steps, at most the chain's length; None is the whole chain."""
    longest = tables.num_timesteps
    return longest if num_steps is None else jnp.minimum(num_steps, longest)


def _normal(
    keys: array_types.PRNGKeys, numbers: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Returns one float32 normal draw per key, from the key folded with its number."""

    def draw(key: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float32)

    return jax.vmap(draw)(keys, numbers)
