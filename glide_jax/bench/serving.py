"""Times a server of pictures: many clients at once, against one at a time.

The clients speak HTTP as any other does, so the server may run anywhere.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import statistics
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent import futures
from typing import Any

from glide_jax.bench import timing
from glide_jax.errors import UserError

_PATH = "/v1/images/generations"
_TIMEOUT_S = 600


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark.

    Attributes:
      clients: number that ask at once.
      requests: pictures of each of the two measurements, one in a request.
      prompt: of all of them; the seeds differ.
      options: further fields of each request.
    """

    clients: int = 8
    requests: int = 32
    prompt: str = "a picture"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def benchmark(url: str, token: str | None, settings: Settings) -> dict[str, Any]:
    """Returns one row of JSON values: pictures per second and seconds of a request.

    Args:
      url: the address of the server, e.g. http://127.0.0.1:8000.
      token: its bearer token, or None.
      settings: see the class.

    Raises:
      UserError: a server that does not answer, or that refuses a request.
    """
    client = _Client(url, token, settings)
    client.draw(0)  # compiles
    alone = _measure(client, 1, range(1, settings.requests + 1))
    last = 2 * settings.requests
    together = _measure(
        client, settings.clients, range(settings.requests + 1, last + 1)
    )
    ratio = together["pictures_per_second"] / alone["pictures_per_second"]
    return {
        "benchmark": "serve",
        "implementation": "glide_jax",
        **dataclasses.asdict(settings),
        "one_at_a_time": alone,
        "together": together,
        "speedup": timing.rounded(ratio),
    }


class _Client:
    """Asks for pictures."""

    def __init__(self, url: str, token: str | None, settings: Settings):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(
                f"--url={url} is not the address of a server; give e.g. "
                "http://127.0.0.1:8000"
            )
        self._url, self._settings = url.rstrip("/") + _PATH, settings
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        handlers = []
        if parts.hostname in ("127.0.0.1", "localhost", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def draw(self, seed: int) -> float:
        """Asks for one picture and returns the seconds until it is there."""
        own = {"prompt": self._settings.prompt, "seed": seed}
        body = json.dumps({**self._settings.options, **own}).encode()
        start = time.perf_counter()
        try:
            request = urllib.request.Request(self._url, body, self._headers)
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            raise UserError(
                f"{self._url} answers {error.code}: {_message(error)}; change the "
                "request, or the limits of the server"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"{self._url} cannot be asked ({error}); start the server, or give its "
                "--url"
            ) from error
        return time.perf_counter() - start


def _message(error: urllib.error.HTTPError) -> str:
    """Returns the one line of an error of the server."""
    try:
        return str(json.load(error)["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError):
        return str(error.reason)


def _measure(client: _Client, clients: int, seeds: range) -> dict[str, float]:
    """Returns the rate of some clients, and the seconds of their requests."""
    start = time.perf_counter()
    with futures.ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(client.draw, seeds))
    rate = len(seeds) / (time.perf_counter() - start)
    slowest = statistics.quantiles(seconds, n=20, method="inclusive")[-1]
    return {
        "pictures_per_second": timing.rounded(rate),
        "seconds_median": timing.rounded(statistics.median(seconds)),
        "seconds_95_percent": timing.rounded(slowest),
    }
