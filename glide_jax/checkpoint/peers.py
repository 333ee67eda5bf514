"""What the processes of a run tell each other about a checkpoint, from any thread.

Words travel by the coordination service and not by the devices, whose collectives all
processes would have to start in the same order as those of the training step.
"""

from __future__ import annotations

import collections
import itertools

import jax
import orbax.checkpoint as ocp

# Hashing or writing a large state takes one process longer than another. A process
# that has died is noticed by the service itself, which then ends the others.
_TIMEOUT_MS = 60 * 60 * 1000
_conversations: dict[str, itertools.count] = collections.defaultdict(itertools.count)


class Peers:
    """A conversation by its name: all processes start it, and then speak in turn.

    One thread of a process speaks at a time.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"glide_jax/{name}/{next(_conversations[name])}"
        self._rounds = itertools.count()
        self._stale = ""
        self.index, self.count = jax.process_index(), jax.process_count()

    def exchange(self, word: str) -> list[str]:
        """Every process's word, in their order; returns once all have spoken."""
        if self.count == 1:
            return [word]
        client = ocp.multihost.get_jax_distributed_client()
        key = f"{self._prefix}/{next(self._rounds)}"
        client.key_value_set(f"{key}/{self.index}", word)
        words = [
            client.blocking_key_value_get(f"{key}/{index}", _TIMEOUT_MS)
            for index in range(self.count)
        ]
        # All have spoken in this round, so all have read the round before.
        if self._stale:
            client.key_value_delete(self._stale)
        self._stale = f"{key}/{self.index}"
        return words

    def agree(self, reason: str) -> str:
        """The first reason of any process against going on; "" if none has one."""
        return next(filter(None, self.exchange(reason)), "")
