"""Takes the next batch, and heeds a signal where that takes long."""

from __future__ import annotations

import logging
import os
import sys
import threading

from glide_jax import lifecycle
from glide_jax.data import pipeline, schema
from glide_jax.parallel import distributed

# How often a process that waits for data looks whether it is to stop.
POLL_SECS = 0.1
# Longer than `data.disk` waits for a file: what reads until then waits for the disk.
LEAVE_SECS = 10.0


class StoppedError(Exception):
    """Leads out of the wait for a batch when a signal has come."""


def next_batch(batches: pipeline.Batches, stop: lifecycle.StopRequest) -> schema.Batch:
    """The next batch, however long it takes.

    Several processes agree on where they stop, and that lies behind the step that the
    others have begun: one that waits for its rows of it goes on waiting, for the
    seconds that `data.disk` has patience.

    Raises:
      StoppedError: a process by itself was asked to stop; nothing was taken or counted,
        and nothing more is read.
      UserError: see `pipeline.make_batches`.
    """
    is_alone = not distributed.is_joined()
    while not batches.is_ready(POLL_SECS):
        if is_alone and stop.requested:
            batches.close()
            raise StoppedError
    return next(batches)


def leave(batches: pipeline.Batches) -> None:
    """Has this process end soon, if a read that never returns would keep it.

    To be called when everything is saved. Python waits at its end for the threads that
    read, and one may hang in a disk that does not answer.
    """

    def end() -> None:
        if not batches.is_ready(LEAVE_SECS):
            logging.error("ended: the data that were waited for never came")
            logging.shutdown()
            sys.stderr.flush()
            os._exit(lifecycle.ExitCode.PREEMPTED)

    threading.Thread(target=end, daemon=True).start()
