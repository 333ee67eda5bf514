"""Runs a sampling program in segments, so that the host can report progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax import array_types
from glide_jax.models import build
from glide_jax.sample import stage_inputs
from glide_jax.sample.stage_inputs import StageInputs

# Called with the share of the work done since the last call; the shares sum to 1.
OnShare = Callable[[float], None]
# Called after each step with the number of steps made, that of all, and a function that
# returns the predicted x_start, (B, H, W, 3).
OnStep = Callable[[int, int, Callable[[], jax.Array]], None]

# Numbers of segments are powers of two, so that their shares are exact.
MAX_SEGMENTS = 16


class Context(NamedTuple):
    """Values that all steps share.

    Attributes:
      text: the captions, encoded for the denoiser.
      clip_text: features of the captions in the CLIP, or None.
      num_steps: number of steps.
    """

    text: build.TextConditioning
    clip_text: jax.Array | None
    num_steps: jax.Array | int


class Parts(NamedTuple):
    """A sampling program in three parts: pure functions, to be jitted or composed.

    Attributes:
      begin: (params, clip_params, inputs) -> (context, state before the first step).
      advance: (params, clip_params, inputs, context, state, segment, num_segments)
          -> state after that one of `num_segments` segments of about equal length.
      finish: (inputs, state) -> x_start.
    """

    begin: Any
    advance: Any
    finish: Any


class Stage:
    """The sampling program of one model, run in segments; compiles on first use.

    Attributes:
      num_segments: number of calls of `Parts.advance`.
    """

    def __init__(self, parts: Parts, num_segments: int, estimate: Any = None):
        """Takes jitted or compiled parts, and the number of segments.

        `estimate` is (params, clip_params, inputs, context, state, steps made) ->
        predicted x_start; only `on_step` needs it.
        """
        self._parts, self.num_segments = parts, num_segments
        self._estimate = estimate

    def __call__(
        self,
        params: array_types.Params,
        clip_params: array_types.Params | None,
        inputs: StageInputs,
        on_share: OnShare | None = None,
        on_step: OnStep | None = None,
    ) -> jax.Array:
        """Returns x_start, (B, H, W, 3) float32; the callbacks may raise to stop.

        With `on_step` each step is a segment of its own, of the same program.
        """
        inputs = _on_devices(inputs)
        context, state = self._parts.begin(params, clip_params, inputs)
        num_segments = self.num_segments
        if on_step is not None:
            num_segments = max(1, int(context.num_steps))
        for segment in range(num_segments):
            # A state on other devices would compile the segments again.
            state = jax.device_put(state, inputs.keys.sharding)
            state = self._parts.advance(
                *(params, clip_params, inputs, context, state),
                *(np.int32(segment), np.int32(num_segments)),
            )
            if on_share is not None:
                jax.block_until_ready(state)
                on_share(1 / num_segments)
            if on_step is not None:
                made = np.int32(segment + 1)
                arguments = params, clip_params, inputs, context, state, made
                on_step(
                    segment + 1,
                    num_segments,
                    functools.partial(self._estimate, *arguments),
                )
        return self._parts.finish(inputs, state)

    def compiled(
        self,
        params: array_types.Params,
        clip_params: array_types.Params | None,
        inputs: StageInputs,
    ) -> Stage:
        """Returns the program compiled for arguments of these shapes."""
        parts = self.compile_parts(params, clip_params, _on_devices(inputs))
        return Stage(parts, self.num_segments)

    def compile_parts(
        self,
        params: array_types.Params,
        clip_params: array_types.Params | None,
        inputs: StageInputs,
    ) -> Parts:
        """Returns each part as a `jax.stages.Compiled`.

        The arguments are arrays, or ShapeDtypeStructs with shardings: their devices
        need not exist. The scalars of `inputs` are arrays as well.
        """
        begin, advance, finish = self._parts
        arguments = params, clip_params, inputs
        compiled = begin.lower(*arguments).compile()
        context, state = _results(begin, compiled, arguments)
        # `__call__` moves the state to where the inputs are.
        state = jax.tree.map(
            lambda leaf: leaf.update(sharding=inputs.keys.sharding), state
        )
        number = np.int32(0)
        return Parts(
            compiled,
            advance.lower(*arguments, context, state, number, number).compile(),
            finish.lower(inputs, state).compile(),
        )


def _results(
    function: Any, compiled: jax.stages.Compiled, arguments: tuple[Any, ...]
) -> Any:
    """Returns what a compiled function returns, as ShapeDtypeStructs."""
    return jax.tree.map(
        lambda leaf, place: leaf.update(sharding=place),
        jax.eval_shape(function, *arguments),
        compiled.output_shardings,
    )


def _on_devices(inputs: StageInputs) -> StageInputs:
    """Returns the inputs on the devices."""
    return jax.tree.map(jnp.asarray, stage_inputs.with_array_scalars(inputs))
