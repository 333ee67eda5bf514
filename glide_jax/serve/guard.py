"""Admits requests: the token, the size of the body, and a count of the answers."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Collection
from typing import Any

from fastapi.responses import JSONResponse

from glide_jax.serve.answers import RequestError
from glide_jax.serve.metrics import Metrics

# Served without a token, for probes of a load balancer.
OPEN_PATHS = ("/healthz",)


class Guard:
    """ASGI middleware around the application."""

    def __init__(
        self,
        app: Any,
        *,
        metrics: Metrics,
        token: str | None,
        max_upload_bytes: int,
        paths: Collection[str],
    ):
        """Guards `app`.

        Args:
          app: the application.
          metrics: counts requests by their path, others than `paths` as "other".
          token: the bearer token that clients give, or None.
          max_upload_bytes: most bytes of a body.
          paths: the paths of the application.
        """
        self._app, self._metrics, self._paths = app, metrics, paths
        self._digest = None if token is None else _digest(token)
        self._max_bytes = max_upload_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers or passes on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, received = time.monotonic(), 0, 0

        async def counted_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def limited_receive() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        try:
            error = self._refusal(scope)
            if error is None:
                await self._app(scope, limited_receive, counted_send)
            else:
                answer = JSONResponse(error.body(), error.status, error.headers())
                await answer(scope, receive, counted_send)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status, time.monotonic() - start)

    def _refusal(self, scope: Any) -> RequestError | None:
        """Returns the error of a request that is not passed on."""
        headers = dict(scope["headers"])
        if self._digest is not None and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            found = hashlib.sha256(given.strip()).digest()
            if kind.lower() != b"bearer" or not hmac.compare_digest(
                found, self._digest
            ):
                return RequestError(
                    401,
                    "the token is missing or wrong; give Authorization: Bearer TOKEN",
                    code="invalid_api_key",
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> RequestError:
        megabytes = self._max_bytes / 1e6
        return RequestError(
            413, f"the body is too large; give at most {megabytes:g} MB"
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
