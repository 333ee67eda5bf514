"""Ends work on a signal with exit code 42, for the same command to be run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from glide_jax.runtime import lifecycle

Poll = Callable[[], None]


NOTHING_KEPT = "nothing written; the same command starts again"
ALL_KEPT = "completed work kept; the same command resumes"


@contextlib.contextmanager
def on_signal(kept: str | Callable[[], str] = NOTHING_KEPT) -> Iterator[Poll]:
    """Yields a function to call often; after a signal it raises StoppedError.

    Args:
      kept: what is kept and how the same command continues, for the message. A function
        is called at the end. By default the work must leave nothing behind.
    """
    with lifecycle.StopRequest() as stop:

        def poll() -> None:
            if stop.requested:
                left = kept if isinstance(kept, str) else kept()
                raise lifecycle.StoppedError(
                    f"stopped by {stop.signal_name} with {left}"
                )

        yield poll
