"""Counts records that cannot be used, and stops the run when they are too many."""

from __future__ import annotations

import collections
import itertools
import logging
import threading
from collections.abc import Callable

from glide_jax import errors
from glide_jax.data import schema

_log = logging.getLogger(__name__)
# The share is judged as if at least so many records had been seen, so that one bad
# record among the first ten is not taken for a tenth of the data.
MIN_SEEN = 1000
NAMED = 5


class FaultCounter:
    """A thread-safe tally of bad records against the share that is allowed.

    `on_bad` (a line in the log by default) is called with each bad record once, however
    often it is drawn, and no more when the share is exceeded.

    Attributes:
      seen: records tried so far.
      by_kind: bad records so far, by kind.
    """

    def __init__(
        self,
        max_bad_frac: float,
        on_bad: Callable[[schema.BadRecordError], None] | None = None,
    ) -> None:
        self.seen = 0
        self.by_kind: collections.Counter[str] = collections.Counter()
        self._max_bad_frac = max_bad_frac
        self._on_bad = on_bad or (lambda fault: _log.warning("replaced: %s", fault))
        self._keys: dict[str, None] = {}  # in the order they were met
        self._is_over = False
        self._lock = threading.Lock()

    def count_good(self) -> None:
        """Notes one record that was usable."""
        with self._lock:
            self.seen += 1

    def count_bad(self, fault: schema.BadRecordError) -> None:
        """Notes one record that was not.

        Raises:
          UserError: bad records now exceed the allowed share.
        """
        with self._lock:
            self.seen += 1
            self.by_kind[fault.kind] += 1
            is_new = fault.key not in self._keys
            self._keys[fault.key] = None
            bad, seen = self.by_kind.total(), self.seen
            # Other threads may still read a little after the run was told to stop.
            self._is_over |= bad > self._max_bad_frac * max(seen, MIN_SEEN)
            is_over, first = self._is_over, list(itertools.islice(self._keys, NAMED))
        if is_over:
            kinds = ", ".join(f"{n} {kind}" for kind, n in self.by_kind.most_common())
            raise errors.UserError(
                f"{bad} of {seen} records cannot be used ({kinds}; first:"
                f" {', '.join(first)}), more than data.max_bad_frac="
                f"{self._max_bad_frac:g} allows; mend the data or raise it"
            )
        if is_new:
            self._on_bad(fault)
