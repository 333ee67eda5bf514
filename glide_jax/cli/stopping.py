"""Ends work when a signal comes: exit code 42, to be run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from glide_jax.runtime import lifecycle

Poll = Callable[[], None]


NOTHING_KEPT = "nothing written; the same command starts over"
ALL_KEPT = "what is done kept; the same command goes on from there"


@contextlib.contextmanager
def on_signal(kept: str | Callable[[], str] = NOTHING_KEPT) -> Iterator[Poll]:
    """A function to be called often in the `with` block: it raises to end the work.

    The work may leave nothing behind that looks whole, unless `kept` tells what a
    second start goes on from; a function is called at the end.
    """
    with lifecycle.StopRequest() as stop:

        def poll() -> None:
            if stop.requested:
                left = kept if isinstance(kept, str) else kept()
                raise lifecycle.StoppedError(
                    f"stopped by {stop.signal.name} with {left}"
                )

        yield poll
