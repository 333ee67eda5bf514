"""Serves the page on a loopback address, without any other network."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import fastapi
import gradio as gr

from glide_jax.demo import ballot, bundles, history, page, studio
from glide_jax.serve import listening

_LAST_ANSWERS_S = 1
_MAX_UPLOAD = "20mb"
# What the page loads comes from this server; a browser refuses all else.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob: "
    "data:; frame-ancestors 'none'; form-action 'self'"
)


class WithPolicy:
    """ASGI middleware that adds the policy of contents to every answer."""

    def __init__(self, app: Any):
        """Serves `app`."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self._app(scope, receive, with_policy)


def mount(own: studio.Studio, votes: ballot.Ballot, port: int) -> Any:
    """Returns the ASGI application of the page."""
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page.make_page(own, votes).queue(
            api_open=False, default_concurrency_limit=None
        ),
        path="/",
        server_name="127.0.0.1",
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[str(own.history.folder)],
        max_file_size=_MAX_UPLOAD,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        **page.looks(),
    )
    return listening.LoopbackOnly(WithPolicy(app))


@contextlib.contextmanager
def served(
    models: bundles.Models,
    folder: pathlib.Path,
    listener: socket.socket,
    limits: studio.Limits | None = None,
) -> Iterator[tuple[studio.Studio, listening.HttpThread]]:
    """Serves the page during the block.

    Args:
      models: draw the pictures.
      folder: receives the pictures and the votes; it exists.
      listener: from `listening.listen`.
      limits: see `studio.Limits`.

    Yields:
      The queue, and the thread that answers.

    Raises:
      UserError: votes in the folder that cannot be read.
    """
    votes = ballot.Ballot(folder)
    own = studio.Studio(models, history.History(folder), limits)
    try:
        with tempfile.TemporaryDirectory(prefix="glide_demo.") as scratch:
            # Uploads and the shown copies of pictures.
            os.environ["GRADIO_TEMP_DIR"] = scratch
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            port = listener.getsockname()[1]
            http = listening.HttpThread(
                mount(own, votes, port), last_answers_s=_LAST_ANSWERS_S, lifespan="on"
            )
            http.start(listener)
            try:
                own.warm_up()
                yield own, http
            finally:
                own.close()
                http.stop()
    finally:
        own.close()
