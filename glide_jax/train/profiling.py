"""Traces a few steps for TensorBoard's profiler, as requested by --profile_steps."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from typing import Any

import jax

from glide_jax.errors import UserError


def read_steps(text: str | None) -> range:
    """Parses "100:105" as a Python range, 100 to 104; "" or None is empty.

    Raises:
      UserError: `text` is not a range of steps.
    """
    if not text:
        return range(0)
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and 0 < int(first) < int(end)):
        raise UserError(
            f"--profile_steps={text} is not a range of steps; give the first, from 1, "
            "and the one after the last, e.g. 100:105"
        )
    return range(int(first), int(end))


class Profiler(contextlib.AbstractContextManager):
    """Traces the host and the devices during some steps into a folder.

    Only process 0 writes: the other devices do the same work. A run that resumes
    within the steps traces the remaining ones.
    """

    def __init__(self, folder: pathlib.Path, steps: range) -> None:
        self._folder = folder
        self._steps = steps if jax.process_index() == 0 else range(0)
        self._is_tracing = self._has_traced = False

    def step(self, step: int, state: Any) -> jax.profiler.StepTraceAnnotation:
        """A context that marks one step in the trace; `state` is the step's input.

        The trace starts and stops when the state is ready, so it covers whole steps.
        """
        if (step in self._steps) != self._is_tracing:
            jax.block_until_ready(state)
            self._switch()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def __exit__(self, *exception: object) -> None:
        if self._is_tracing:
            self._switch()
        elif self._steps and not self._has_traced:
            logging.warning("--profile_steps: the run made none of %s", self._named())

    def _switch(self) -> None:
        self._is_tracing = not self._is_tracing
        self._has_traced = True
        if self._is_tracing:
            jax.profiler.start_trace(self._folder)
        else:
            jax.profiler.stop_trace()
            logging.info("%s were traced to %s", self._named(), self._folder)

    def _named(self) -> str:
        return f"steps {self._steps.start} to {self._steps.stop - 1}"
