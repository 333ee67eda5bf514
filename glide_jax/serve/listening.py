"""A socket on an address of this machine, and an HTTP server in a thread."""

from __future__ import annotations

import ipaddress
import socket
import threading
import urllib.parse
from typing import Any

import uvicorn
from fastapi.responses import JSONResponse

from glide_jax.errors import UserError
from glide_jax.serve import answers


def listen(
    host: str, port: int, *, has_token: bool, flags: str = "--host or --port"
) -> socket.socket:
    """Returns a socket that listens at an address of this machine.

    Args:
      host: a name or an address.
      port: 0: any free one.
      has_token: whether clients need a token.
      flags: those of the address, for errors.

    Raises:
      UserError: an address that other machines reach, without a token; or one that
        cannot be listened at.
    """
    if not has_token and not is_loopback(host):
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
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error, flags) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error, flags) from error
    return listener


def _cannot_listen(host: str, port: int, error: Exception, flags: str) -> UserError:
    return UserError(f"cannot listen at {host}:{port} ({error}); give another {flags}")


def is_loopback(host: str) -> bool:
    """Whether an address or a name is reached by this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HttpThread:
    """Serves an ASGI application in a thread."""

    def __init__(self, application: Any, *, last_answers_s: int, lifespan: Any = "off"):
        """Answers nothing yet.

        Args:
          application: what is served.
          last_answers_s: seconds for answers that are not sent when it stops.
          lifespan: "on" if the application has work to do at its start.
        """
        config = uvicorn.Config(
            application,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan=lifespan,
            timeout_graceful_shutdown=last_answers_s,
        )
        self._http = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self, listener: socket.socket) -> None:
        """Begins to answer at a socket from `listen`."""
        # Outside of the main thread uvicorn leaves the signals alone.
        self._thread = threading.Thread(
            target=self._http.run, args=([listener],), name="http", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Ends, and waits for that."""
        self._http.should_exit = True
        if self._thread is not None:
            self._thread.join()


class LoopbackOnly:
    """ASGI middleware of a server without a token: pages of other sites cannot use it.

    A browser on this machine opens any page, which may send requests to a loopback
    address, also under a name of its own that leads there. Requests are refused whose
    Host or Origin is not a loopback address.
    """

    def __init__(self, app: Any):
        """Guards `app`."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers or passes on one request."""
        if scope["type"] in ("http", "websocket"):
            headers = dict(scope["headers"])
            for name in (b"host", b"origin"):
                given = headers.get(name, b"").decode("latin-1")
                if given and not is_loopback(_host_of(given)):
                    error = answers.RequestError(
                        403,
                        f"{name.decode()} {given!r:.80} is not this machine; use "
                        "http://127.0.0.1 with the port",
                    )
                    refused = JSONResponse(error.body(), error.status)
                    await refused(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _host_of(given: str) -> str:
    """Returns the host of a header Host or Origin; "" if it has none."""
    try:
        return (
            urllib.parse.urlsplit(given if "://" in given else f"//{given}").hostname
            or ""
        )
    except ValueError:
        return ""
