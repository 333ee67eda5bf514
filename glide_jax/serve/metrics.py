"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

import prometheus_client as prometheus

from glide_jax.serve import batcher

# Upper bounds of seconds: from a student on a GPU to 150 steps on a CPU.
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "glide_requests",
            "Answered requests, by path and status.",
            ("path", "status"),
            registry=registry,
        )
        self._request_seconds = prometheus.Histogram(
            "glide_request_seconds",
            "Seconds from the first byte of a request to its answer, by path.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = prometheus.Gauge(
            "glide_queue_pictures", "Pictures that wait.", registry=registry
        )
        self._batch = prometheus.Histogram(
            "glide_batch_pictures",
            "Asked pictures in a finished batch.",
            buckets=_ROWS,
            registry=registry,
        )
        self._batch_seconds = prometheus.Histogram(
            "glide_batch_seconds",
            "Seconds of a finished batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = prometheus.Histogram(
            "glide_stage_seconds",
            "Seconds of a finished stage of a batch.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._abandoned = prometheus.Counter(
            "glide_batches_abandoned",
            "Batches given up because every client left or was out of time.",
            registry=registry,
        )

    def events(self) -> batcher.Events:
        """Returns the callbacks of a batcher."""

        def drawn(count: int, seconds: float) -> None:
            self._batch.observe(count)
            self._batch_seconds.observe(seconds)

        return batcher.Events(self._queue.set, drawn, self._abandoned.inc)

    def stage(self, name: str, seconds: float) -> None:
        """Notes a finished stage."""
        self._stage_seconds.labels(name).observe(seconds)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Notes an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def page(self) -> bytes:
        """Returns the text of /metrics."""
        return prometheus.generate_latest(self._registry)
