"""How is x_{t-1} made from x_t, and an image from noise?

1. DDPM: x_{t-1} = mean + exp(log_variance / 2) noise, no noise at t = 0 (2006.11239,
   algorithm 2)
2. DDIM: x_{t-1} = sqrt(A_{t-1}) x_start + sqrt(1 - A_{t-1} - s^2) eps + s noise,
   s = eta sqrt((1 - A_{t-1}) / (1 - A_t)) sqrt(1 - A_t / A_{t-1}), eps implied by the
   clipped x_start (2010.02502, eq. 12 and 16)
3. DDIM reversed, eta = 0: x_{t+1} = sqrt(A_{t+1}) x_start + sqrt(1 - A_{t+1}) eps
4. PLMS and DPM-Solver++(2M): DDIM, eta = 0, bettered by the steps before (multistep.py)

A rule is a pure function of the network's output, so it knows no network. A gradient
shifts the mean in 1 and the score in 2 to 4 (see guidance.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import guidance, multistep, process
from glide_jax.errors import UserError
from glide_jax.runtime import random_streams

# (x_t, timesteps on the training chain) -> model_output
Denoise = Callable[[array_types.Image, array_types.Timesteps], process.ModelOutput]
# (x_t, timesteps on the training chain) -> gradient, shaped as x_t
GradientFn = Callable[[array_types.Image, array_types.Timesteps], array_types.Image]
# (x_prev, t of the step just made) -> x_prev, e.g. to put known pixels back
AfterStep = Callable[[array_types.Image, array_types.Timesteps], array_types.Image]

# Rules that make an image; the reversed one makes noise.
SAMPLERS = ("ddpm", "ddim", "plms", "dpm_solver_pp")


class SampleStep(NamedTuple):
    """One step towards the image; both (b, h, w, c)."""

    x_prev: array_types.Image
    pred_x_start: array_types.Image


class ReverseStep(NamedTuple):
    """One step towards noise; both (b, h, w, c)."""

    x_next: array_types.Image
    pred_x_start: array_types.Image


class WalkState(NamedTuple):
    """What one step of `walk` leaves to the next.

    Attributes:
      x_t: (b, h, w, c).
      earlier: what a multistep rule keeps of earlier steps, each (b, h, w, c).
    """

    x_t: array_types.Image
    earlier: tuple[array_types.Image, ...]


def ddpm_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    noise: array_types.Image,
    *,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> SampleStep:
    """Ancestral step, eq. 1.

    Args:
      tables: chain that `t` indexes.
      model_output: what the network returned at x_t, after classifier-free guidance.
      x_t: noised images.
      t: (b,) indices into `tables`.
      noise: standard normal draw; plays no part where t = 0.
      gradient: guidance gradient at x_t, or None.
      clip_denoised: static; clip pred_x_start to [-1, 1].
      denoised_fn: static; see process.p_mean_variance.
    """
    out = process.p_mean_variance(
        tables,
        model_output,
        x_t,
        t,
        clip_denoised=clip_denoised,
        denoised_fn=denoised_fn,
    )
    mean = out.mean
    if gradient is not None:
        mean = guidance.shift_mean(mean, out.variance, gradient)
    spread = _unless_last(t) * jnp.exp(0.5 * out.log_variance)
    return SampleStep(mean + spread * noise, out.pred_x_start)


def ddim_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    noise: array_types.Image,
    *,
    eta: array_types.Scalar = 0.0,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> SampleStep:
    """Implicit step, eq. 2; arguments as in `ddpm_step`.

    `eta` in [0, 1] may be traced: 0 is deterministic, 1 has DDPM's variance.
    """
    pred_x_start, eps = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    cumprod = process.gather(tables.alphas_cumprod, t)
    prev = process.gather(tables.alphas_cumprod_prev, t)
    sigma = eta * jnp.sqrt((1 - prev) / (1 - cumprod)) * jnp.sqrt(1 - cumprod / prev)
    # At eta = 1 rounding can carry the root's argument below 0 on the noisiest step.
    direction = jnp.sqrt(jnp.maximum(1 - prev - sigma**2, 0))
    x_prev = jnp.sqrt(prev) * pred_x_start + direction * eps
    return SampleStep(x_prev + _unless_last(t) * sigma * noise, pred_x_start)


def ddim_reverse_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    *,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> ReverseStep:
    """Deterministic step to index t + 1, eq. 3; arguments as in `ddpm_step`."""
    pred_x_start, eps = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    following = process.gather(tables.alphas_cumprod_next, t)
    x_next = jnp.sqrt(following) * pred_x_start + jnp.sqrt(1 - following) * eps
    return ReverseStep(x_next, pred_x_start)


def initial_noise(
    keys: array_types.PRNGKeys,
    shape: tuple[int, int, int],
    scale: array_types.Scalar = 1.0,
) -> array_types.Image:
    """Starting x_t, (b, *shape): one (h, w, c) normal draw per key, times scale.

    GLIDE's upsampler starts from scale 0.997.
    """
    return scale * _normal(
        keys, jnp.full(keys.shape, random_streams.INITIAL_NOISE), shape
    )


def step_noise(
    keys: array_types.PRNGKeys, t: array_types.Timesteps, shape: tuple[int, int, int]
) -> array_types.Image:
    """Noise of step t, (b, *shape): a function of each image's own key and t alone."""
    return _normal(keys, t, shape)


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
    """Images x_start, (b, h, w, c): one rule walked down to index 0.

    Args:
      denoise: (x_t, timesteps) -> model_output; timesteps lie on the training chain.
      tables: the (respaced) chain to walk.
      x_init: x_t at the first index walked: the starting noise of `initial_noise`, or
          with num_steps an image noised (process.q_sample) or inverted (`invert`) to
          index num_steps - 1.
      keys: one typed key per image, so its noise does not depend on its batch.
      rule: static; one of SAMPLERS.
      eta: DDIM's share of fresh noise, in [0, 1]; may be traced. Others ignore it.
      num_steps: walk only the indices num_steps - 1 to 0; 0 returns x_init. More than
          the chain has, or None, is the whole chain. May be traced: one program
          serves every number.
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
    """The state before the first step of `walk`.

    Raises:
      UserError: unknown rule.
    """
    x_init = jnp.asarray(x_init, jnp.float32)
    _, memory = _choose_rule(rule, 0.0)
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
    """Steps `first` to `stop` - 1 of the `num_steps` of `sample_loop`.

    Parts of one walk, each from the state that the one before it left, make the same
    images as the whole walk.

    Args:
      denoise, tables, keys, and the keywords: as in `sample_loop`, and the same in
          every part.
      state: as from `start`, or from the part before.
      first: the number of steps made before; may be traced, as `stop`.
      stop: the number of steps made afterwards, at most num_steps.

    Raises:
      UserError: unknown rule.
    """
    take_step, _ = _choose_rule(rule, eta)
    num_steps = _bounded(num_steps, tables)

    def body(walked: jax.Array, state: WalkState) -> WalkState:
        x_t, earlier = state
        t = jnp.full(x_t.shape[:1], num_steps - 1 - walked, jnp.int32)
        timesteps = tables.timesteps[t]
        x_prev, earlier = take_step(
            tables,
            denoise(x_t, timesteps),
            x_t,
            t,
            noise=step_noise(keys, t, x_t.shape[1:]),
            earlier=earlier,
            num_earlier=walked,
            gradient=None if gradient_fn is None else gradient_fn(x_t, timesteps),
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
        )
        return WalkState(
            x_prev if after_step is None else after_step(x_prev, t), earlier
        )

    return jax.lax.fori_loop(first, stop, body, state)


def invert(
    denoise: Denoise,
    tables: process.DiffusionTables,
    x_start: array_types.Image,
    *,
    num_steps: multistep.Count | None = None,
    denoised_fn: process.DenoisedFn | None = None,
    clip_denoised: bool = True,
) -> array_types.Image:
    """x_t at index num_steps - 1 from which DDIM, eta = 0, makes x_start again.

    Eq. 3 from index 0 up, where x_start itself stands for x_t (reference), so that it
    costs num_steps - 1 network calls. Arguments as in `sample_loop`; 0 and 1 steps
    return x_start.

    The image comes back but for the first-order error of both walks. Clipped or not
    here makes no difference to that; but a guided network's estimates, which leave
    [-1, 1], would end in an x_t larger than the noise that samplers start from.
    `sample_loop` has to clip on the way back: at the noisiest index an error of eps
    grows by up to 2e4 on its way into an unclipped x_start.
    """
    num_steps = _bounded(num_steps, tables)

    def body(index: jax.Array, x_t: jax.Array) -> jax.Array:
        t = jnp.full(x_t.shape[:1], index, jnp.int32)
        return ddim_reverse_step(
            tables,
            denoise(x_t, tables.timesteps[t]),
            x_t,
            t,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
        ).x_next

    x_start = jnp.asarray(x_start, jnp.float32)
    return jax.lax.fori_loop(0, num_steps - 1, body, x_start)


def _choose_rule(
    rule: str, eta: array_types.Scalar
) -> tuple[Callable[..., tuple], int]:
    """A named rule as a step to (x_prev, earlier), and how much it remembers."""
    if rule not in SAMPLERS:
        raise UserError(
            f"rule={rule!r} is not a known sampler; use one of {', '.join(SAMPLERS)}"
        )
    if rule == "plms":
        return _multistep(multistep.plms_step), multistep.PLMS_MEMORY
    if rule == "dpm_solver_pp":
        return _multistep(multistep.dpm_solver_pp_step), multistep.DPM_SOLVER_PP_MEMORY
    one_step = ddpm_step if rule == "ddpm" else functools.partial(ddim_step, eta=eta)

    def take_step(*args, earlier, num_earlier, **kwargs):
        return one_step(*args, **kwargs).x_prev, earlier

    return take_step, 0


def _multistep(step: Callable[..., multistep.MultistepStep]) -> Callable[..., tuple]:
    def take_step(*args, noise, **kwargs):
        out = step(*args, **kwargs)
        return out.x_prev, out.earlier

    return take_step


def _bounded(
    num_steps: multistep.Count | None, tables: process.DiffusionTables
) -> multistep.Count:
    """At most the chain's length, which None stands for."""
    longest = tables.num_timesteps
    return longest if num_steps is None else jnp.minimum(num_steps, longest)


def _unless_last(t: array_types.Timesteps) -> jax.Array:
    """0 where t is 0, the step that lands on the image, else 1; (b, 1, 1, 1)."""
    return jnp.asarray(t != 0, jnp.float32)[:, None, None, None]


def _normal(
    keys: array_types.PRNGKeys, numbers: jax.Array, shape: tuple[int, int, int]
) -> jax.Array:
    """One float32 normal draw per key, under the key folded with its number."""

    def draw(key: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float32)

    return jax.vmap(draw)(keys, numbers)
