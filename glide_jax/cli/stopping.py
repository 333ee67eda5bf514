"""Ends work that keeps nothing when a signal comes: exit code 42, to be run again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from glide_jax import lifecycle

Poll = Callable[[], None]


class StoppedError(Exception):
    """Leads out of the work when a signal has come."""


def run(work: Callable[[Poll], None]) -> lifecycle.ExitCode:
    """Does work(poll), which is to call poll() often: it raises to end the work.

    The work may leave nothing behind that looks whole.
    """
    with lifecycle.StopRequest() as stop:

        def poll() -> None:
            if stop.requested:
                raise StoppedError

        try:
            work(poll)
        except StoppedError:
            logging.warning(
                "stopped by %s with nothing written; the same command starts over",
                stop.signal.name,
            )
            return lifecycle.ExitCode.PREEMPTED
    return lifecycle.ExitCode.OK
