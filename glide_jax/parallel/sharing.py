"""Shares work out by index among processes that compute on their own devices.

Every process draws or reads some of the pictures and writes them into a folder that all
share. Process 0 finds out what is missing there, so that all have one list, and
collects the parts at the end. A single process does all of the work.
"""

from __future__ import annotations

import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from glide_jax.errors import UserError
from glide_jax.parallel import distributed

# (first index, index after the last)
Span = tuple[int, int]

# NFS clients cache the absence of a file for this long.
SEEN_WITHIN_SECS = 60.0
_POLL_SECS = 0.5


def is_first() -> bool:
    """Whether this is process 0, which writes what there is one of."""
    return distributed.process_id() == 0


def agree(name: str, make: Callable[[], Any]) -> Any:
    """Broadcasts JSON values from process 0; each name may be used once in a run."""
    return json.loads(distributed.from_first(name, lambda: json.dumps(make()).encode()))


def missing(done: Iterable[Span], count: int) -> list[Span]:
    """Returns the gaps in [0, count) that the spans leave; they do not overlap."""
    gaps, end = [], 0
    for first, stop in sorted(done):
        if first > end:
            gaps.append((end, first))
        end = max(end, stop)
    return gaps + ([(end, count)] if end < count else [])


def cut(gaps: Iterable[Span], at_once: int, count: int) -> list[Span]:
    """Cuts gaps into batches of at most `at_once`, so that every process gets some.

    The size does not depend on what is missing: a compiler may round another batch size
    differently, and a resumed run has the pictures of one that was not interrupted.

    Args:
      gaps: from `missing`.
      at_once: largest batch.
      count: number of all pictures.
    """
    size = max(1, min(at_once, math.ceil(count / distributed.process_count())))
    return [
        (start, min(start + size, stop))
        for first, stop in gaps
        for start in range(first, stop, size)
    ]


def own(batches: list[Span]) -> list[Span]:
    """Returns the batches of this process: every n-th of n processes."""
    return batches[distributed.process_id() :: distributed.process_count()]


def of_others(batches: list[Span]) -> list[Span]:
    """Returns the batches that `own` leaves to other processes."""
    mine = set(own(batches))
    return [batch for batch in batches if batch not in mine]


def wait_for_all(name: str, poll: Callable[[], None]) -> None:
    """A barrier that calls `poll` while it waits, which may raise to end the wait."""
    distributed.arrive(name)
    if not distributed.have_all_arrived(name):
        logging.info("waiting for the other processes")
    while not distributed.have_all_arrived(name):
        poll()
        time.sleep(_POLL_SECS)


def wait_for_file(path: pathlib.Path, *, flag: str) -> None:
    """Waits for a file that another process wrote, as long as a shared disk delays it.

    Raises:
      UserError: it does not appear.
    """
    deadline = time.monotonic() + SEEN_WITHIN_SECS
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{path}, which another process wrote, is not there; {flag} must be "
                "one folder on a disk that all hosts share"
            )
        time.sleep(_POLL_SECS)
