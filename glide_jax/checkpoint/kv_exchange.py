"""Messages between the processes of a run about a checkpoint, from any thread.

Messages use the coordination service and not the devices, whose collectives all
processes would have to start in the same order as those of the training step.
"""

from __future__ import annotations

import collections
import itertools

import jax
import orbax.checkpoint as ocp

# Hashing or writing a large state takes some processes longer than others. The service
# itself detects a process that has died, and then ends the others.
_TIMEOUT_MS = 60 * 60 * 1000
_conversations: dict[str, itertools.count] = collections.defaultdict(itertools.count)


class KvExchange:
    """A named channel: all processes create it and then exchange messages in rounds.

    Only one thread of a process may use it at a time.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"glide_jax/{name}/{next(_conversations[name])}"
        self._rounds = itertools.count()
        self._stale = ""
        self.index, self.count = jax.process_index(), jax.process_count()

    def exchange(self, message: str) -> list[str]:
        """Returns the messages of all processes by index; waits for all of them."""
        if self.count == 1:
            return [message]
        client = ocp.multihost.get_jax_distributed_client()
        key = f"{self._prefix}/{next(self._rounds)}"
        client.key_value_set(f"{key}/{self.index}", message)
        messages = [
            client.blocking_key_value_get(f"{key}/{index}", _TIMEOUT_MS)
            for index in range(self.count)
        ]
        # All have sent a message in this round, so all have read the previous round.
        if self._stale:
            client.key_value_delete(self._stale)
        self._stale = f"{key}/{self.index}"
        return messages

    def agree(self, reason: str) -> str:
        """The first process's reason not to continue; "" if no process has one."""
        return next(filter(None, self.exchange(reason)), "")
