"""Takes the next batch, and heeds a signal where that takes long."""

from __future__ import annotations

from glide_jax import lifecycle
from glide_jax.data import pipeline, schema
from glide_jax.parallel import distributed

# How often a process that waits for data looks whether it is to stop.
POLL_SECS = 0.1


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
