"""Waits for the next batch, and handles signals meanwhile."""

from __future__ import annotations

import logging
import os
import sys
import threading

from glide_jax import lifecycle
from glide_jax.data import pipeline, schema
from glide_jax.parallel import distributed

# How often a process that waits for data checks for a stop request.
POLL_SECS = 0.1
# Longer than `data.disk` waits for a file: what reads until then waits for the disk.
LEAVE_SECS = 10.0


class StoppedError(Exception):
    """Raised out of the wait for a batch when a signal is received."""


def next_batch(batches: pipeline.Batches, stop: lifecycle.StopRequest) -> schema.Batch:
    """Waits for the next batch.

    Several processes agree on the step to stop at, which is after the step that the
    others have started: a process that waits for its rows of that step keeps waiting,
    up to the timeout of `data.disk`.

    Raises:
      StoppedError: a single process was asked to stop; no batch was consumed or
        counted, and nothing more is read.
      UserError: see `pipeline.make_batches`.
    """
    is_alone = not distributed.is_joined()
    while not batches.is_ready(POLL_SECS):
        if is_alone and stop.requested:
            batches.close()
            raise StoppedError
    return next(batches)


def leave(batches: pipeline.Batches) -> None:
    """Makes this process exit soon even if a read never returns.

    Must be called after everything is saved. At exit Python waits for the reader
    threads, one of which may hang on a disk that does not respond.
    """

    def end() -> None:
        if not batches.is_ready(LEAVE_SECS):
            logging.error("ended: the data that were waited for never came")
            logging.shutdown()
            sys.stderr.flush()
            os._exit(lifecycle.ExitCode.PREEMPTED)

    threading.Thread(target=end, daemon=True).start()
