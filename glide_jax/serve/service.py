"""A server with its threads: HTTP in one, the batches in another."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Mapping
from typing import Any

from glide_jax.sample import cascade
from glide_jax.serve import app, batcher, drawing, listening, metrics, reading

# For answers that are ready when the server stops.
_LAST_ANSWERS_S = 10


@dataclasses.dataclass(frozen=True)
class Batching:
    """How requests are joined.

    Attributes:
      batch_size: pictures drawn at once.
      max_delay_s: longest wait of a picture for others.
      max_queue: most pictures that wait.
      is_exact: see `drawing.Drawer`.
    """

    batch_size: int = 4
    max_delay_s: float | int = 0.05
    max_queue: int = 64
    is_exact: bool = True


class Service:
    """A server of one cascade.

    Attributes:
      reader: reads requests.
      queue: the batches.
    """

    def __init__(
        self,
        glide: cascade.Glide,
        *,
        model_name: str,
        batching: Batching | None = None,
        limits: reading.Limits | None = None,
        access: app.Access | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        """Listens to nothing yet; see `start`.

        Args:
          glide: the models.
          model_name: their name for clients.
          batching: see `Batching`.
          limits: see `reading.Limits`.
          access: see `app.Access`.
          defaults: options of requests that give no other.
        """
        batching = batching or Batching()
        counted = metrics.Metrics()
        self._drawer = drawing.Drawer(
            glide,
            batching.batch_size,
            is_exact=batching.is_exact,
            on_stage=counted.stage,
        )
        self.reader = reading.Reader(
            glide, model_name=model_name, limits=limits, defaults=defaults
        )
        self.queue = batcher.Batcher(
            self._drawer,
            batch_size=batching.batch_size,
            max_delay_s=batching.max_delay_s,
            max_queue=batching.max_queue,
            events=counted.events(),
        )
        access = access or app.Access()
        application = app.make_app(self.reader, self.queue, counted, access)
        if access.token is None:
            application = listening.LoopbackOnly(application)
        self._http = listening.HttpThread(application, last_answers_s=_LAST_ANSWERS_S)

    def warm_up(self, poll: Callable[[], None] = lambda: None) -> None:
        """Draws one picture, so that the first request finds a compiled program.

        Calls `poll` in each segment of it; what it raises ends the start.
        """
        asked = self.reader.read({"prompt": "a picture"})
        self._drawer(asked.group, asked.rows, poll)

    def start(self, listener: socket.socket) -> None:
        """Begins to answer at a socket from `listen`."""
        self.queue.start()
        self._http.start(listener)

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._http.is_running and self.queue.failure is None

    def stop(self, drain_s: float | int) -> bool:
        """Finishes the requests that it has, and ends.

        New ones are answered by 503. After `drain_s` the rest is given up. Returns
        whether all were finished.
        """
        is_finished = self.queue.drain(drain_s)
        self._http.stop()
        return is_finished
