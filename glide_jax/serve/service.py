"""A server with its threads: HTTP in one, the batches in another."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import threading
from collections.abc import Mapping
from typing import Any

import uvicorn

from glide_jax.errors import UserError
from glide_jax.sample import cascade
from glide_jax.serve import app, batcher, drawing, metrics, reading

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
        application = app.make_app(
            self.reader, self.queue, counted, access or app.Access()
        )
        config = uvicorn.Config(
            application,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
        self._http = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def warm_up(self) -> None:
        """Draws one picture, so that the first request finds a compiled program."""
        asked = self.reader.read({"prompt": "a picture"})
        self._drawer(asked.group, asked.rows, lambda: None)

    def start(self, listener: socket.socket) -> None:
        """Begins to answer at a socket from `listen`."""
        self.queue.start()
        # Outside of the main thread uvicorn leaves the signals alone.
        self._thread = threading.Thread(
            target=self._http.run, args=([listener],), name="http", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        alive = self._thread is not None and self._thread.is_alive()
        return alive and self.queue.failure is None

    def stop(self, drain_s: float | int) -> bool:
        """Finishes the requests that it has, and ends.

        New ones are answered by 503. After `drain_s` the rest is given up. Returns
        whether all were finished.
        """
        is_finished = self.queue.drain(drain_s)
        self._http.should_exit = True
        if self._thread is not None:
            self._thread.join()
        return is_finished


def listen(host: str, port: int, *, has_token: bool) -> socket.socket:
    """Returns a socket that listens at an address of this machine.

    Args:
      host: a name or an address.
      port: 0: any free one.
      has_token: whether clients need a token.

    Raises:
      UserError: an address that other machines reach, without a token; or one that
        cannot be listened at.
    """
    if not has_token and not _is_loopback(host):
        raise UserError(
            f"--host={host} is reached by other machines; give --token or "
            "--token_file, or --host=127.0.0.1"
        )
    if port > 65535:
        raise UserError(f"--port={port} is not a port; give 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"cannot listen at {host}:{port} ({error}); give another --host or --port"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
