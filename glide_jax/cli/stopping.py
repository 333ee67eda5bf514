"""Ends work that keeps nothing when a signal comes: exit code 42, to be run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from glide_jax import lifecycle

Poll = Callable[[], None]


@contextlib.contextmanager
def heeded() -> Iterator[Poll]:
    """A function to be called often in the `with` block: it raises to end the work.

    The work may leave nothing behind that looks whole.
    """
    with lifecycle.StopRequest() as stop:

        def poll() -> None:
            if stop.requested:
                raise lifecycle.StoppedError(
                    f"stopped by {stop.signal.name} with nothing written; the same "
                    "command starts over"
                )

        yield poll
