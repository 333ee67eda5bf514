"""The HTTP interface: the paths, their answers, and clients that leave."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import time
from collections.abc import Sequence
from typing import Any

import fastapi
import numpy as np
from fastapi.responses import JSONResponse, Response
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from glide_jax.errors import UserError
from glide_jax.serve import answers, batcher, guard, metrics, reading
from glide_jax.serve.answers import RequestError

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
MODELS, HEALTH, METRICS = "/v1/models", "/healthz", "/metrics"
# No standard status has this meaning; nginx logs it for a client that left.
CLIENT_LEFT = 499
_MAX_FIELDS = 64


@dataclasses.dataclass(frozen=True)
class Access:
    """Who may ask, how much, and how long.

    Attributes:
      token: the bearer token that clients give, or None.
      max_upload_bytes: most bytes of a body.
      deadline_s: seconds after which a request that is not answered is given up.
    """

    token: str | None = None
    max_upload_bytes: int = 20_000_000
    deadline_s: float | int = 300


class Interface:
    """The handlers of one server."""

    def __init__(
        self,
        reader: reading.Reader,
        queue: batcher.Batcher,
        counted: metrics.Metrics,
        access: Access,
    ):
        """Takes the parts of the server; see `make_app`."""
        self._reader, self._queue, self._metrics = reader, queue, counted
        self._access, self._started = access, int(time.time())

    async def generations(self, request: fastapi.Request) -> Response:
        """Draws pictures of a prompt."""

        async def read() -> reading.Asked:
            kind = request.headers.get("content-type", "").partition(";")[0].strip()
            if kind.lower() != "application/json":
                raise RequestError(
                    415, "give the fields as JSON, content-type application/json"
                )
            fields = reading.parse_json(await request.body())
            return await asyncio.to_thread(self._reader.read, fields)

        return await self._answer(request, read)

    async def edits(self, request: fastapi.Request) -> Response:
        """Repaints a part of a picture, or changes all of it."""

        async def read() -> reading.Asked:
            kind = request.headers.get("content-type", "").partition(";")[0].strip()
            if kind.lower() != "multipart/form-data":
                raise RequestError(
                    415, "give the fields as a form, content-type multipart/form-data"
                )
            async with request.form(
                max_files=2, max_fields=_MAX_FIELDS, max_part_size=1 << 16
            ) as form:
                fields, uploads = await _split(form.multi_items())
            image = uploads.pop("image", None)
            if image is None:
                raise answers.unusable("image is missing; upload a picture", "image")
            mask = uploads.pop("mask", None)
            return await asyncio.to_thread(self._reader.read, fields, image, mask)

        return await self._answer(request, read)

    async def models(self) -> Response:
        """Lists the one model of the server."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """Describes the model."""
        if name != self._reader.model_name:
            message = f"model {name!r:.60} does not exist"
            raise RequestError(404, message, param="model", code="model_not_found")
        return JSONResponse(self._model())

    async def health(self) -> Response:
        """Says whether the server takes requests."""
        if self._queue.is_draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def page(self) -> Response:
        """Returns the metrics."""
        return Response(
            self._metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._reader.model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "glide_jax",
        }

    async def _answer(self, request: fastapi.Request, read: Any) -> Response:
        """Reads a request, waits for its pictures and returns them."""
        deadline_s = self._access.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                asked: reading.Asked = await read()
                pictures = await self._draw(request, asked)
        except TimeoutError as error:
            raise RequestError(
                504, f"not drawn within {deadline_s:g} s; try again", code="timeout"
            ) from error
        if pictures is None:
            return Response(status_code=CLIENT_LEFT)
        data = await asyncio.to_thread(_encode, asked, pictures)
        return JSONResponse({"created": int(time.time()), "data": data})

    async def _draw(
        self, request: fastapi.Request, asked: reading.Asked
    ) -> Sequence[np.ndarray] | None:
        """Returns the pictures, or None if the client left."""
        try:
            job = self._queue.submit(asked.group, asked.rows)
        except batcher.QueueFullError as full:
            raise RequestError(
                429,
                str(full),
                code="rate_limit_exceeded",
                retry_after_s=full.retry_after_s,
            ) from full
        except batcher.DrainingError as stopping:
            raise _stopping() from stopping
        drawn = asyncio.wrap_future(job.future)
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({drawn, left}, return_when=asyncio.FIRST_COMPLETED)
            if not drawn.done():
                return None
            if drawn.cancelled():  # by the end of a drain
                raise _stopping()
            error = drawn.exception()
            if isinstance(error, UserError):
                raise answers.unusable(str(error))
            if error is not None:
                raise RequestError(500, "the pictures could not be drawn; see the log")
            return drawn.result()
        finally:
            left.cancel()
            drawn.cancel()
            job.future.cancel()


def make_app(
    reader: reading.Reader,
    queue: batcher.Batcher,
    counted: metrics.Metrics,
    access: Access,
) -> Any:
    """Returns the ASGI application of a server."""
    app = fastapi.FastAPI(openapi_url=None)
    own = Interface(reader, queue, counted, access)
    app.add_api_route(GENERATIONS, own.generations, methods=["POST"])
    app.add_api_route(EDITS, own.edits, methods=["POST"])
    app.add_api_route(MODELS, own.models, methods=["GET"])
    app.add_api_route(f"{MODELS}/{{name:path}}", own.model, methods=["GET"])
    app.add_api_route(HEALTH, own.health, methods=["GET"])
    app.add_api_route(METRICS, own.page, methods=["GET"])
    app.add_exception_handler(RequestError, _error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    return guard.Guard(
        app,
        metrics=counted,
        token=access.token,
        max_upload_bytes=access.max_upload_bytes,
        paths={GENERATIONS, EDITS, MODELS, HEALTH, METRICS},
    )


async def _split(
    items: Sequence[tuple[str, Any]],
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Returns the texts and the files of a form, by name."""
    fields: dict[str, str] = {}
    uploads: dict[str, bytes] = {}
    for given, value in items:
        is_file = isinstance(value, UploadFile)
        name = given.removesuffix("[]") if is_file else given
        if name in fields or name in uploads:
            raise answers.unusable(f"{name!r:.60} is given twice; give one", name)
        if not is_file:
            fields[name] = value
        elif name in ("image", "mask"):
            uploads[name] = await value.read()
        else:
            message = f"{name!r:.60} is not a file; upload image and mask"
            raise answers.unusable(message, name)
    return fields, uploads


def _encode(
    asked: reading.Asked, pictures: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Returns the pictures as PNG files in base64, with the numbers of their noise."""
    found = []
    for row, picture in zip(asked.rows, pictures, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="PNG")
        text = base64.b64encode(file.getvalue()).decode()
        found.append({"b64_json": text, "seed": row.seed, "index": row.index})
    return found


async def _left(request: fastapi.Request) -> None:
    """Returns when the client has left; the body is read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stopping() -> RequestError:
    return RequestError(
        503, "the server is stopping; try again", code="stopping", retry_after_s=10
    )


async def _error(request: fastapi.Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _disconnected(request: fastapi.Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # within its body


async def _bug(request: fastapi.Request, error: Exception) -> Response:
    own = RequestError(500, "an unexpected error; see the log")  # uvicorn logs it
    return JSONResponse(own.body(), own.status)


async def _http_error(request: fastapi.Request, error: Any) -> Response:
    """Answers what the framework refuses: a path, a method, a broken form."""
    own = RequestError(error.status_code, str(error.detail))
    return JSONResponse(own.body(), error.status_code, error.headers)
