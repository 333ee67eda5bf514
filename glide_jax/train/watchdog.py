"""Ends a process that makes no progress, so that its launcher can restart it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import pathlib
import sys
import threading
import time

import jax

from glide_jax import lifecycle
from glide_jax.config.defaults import TrainConfig

LOOK_EVERY_SECS = 0.5
# Time limit for the report, since the disk itself may not respond.
TELL_SECS = 5.0


class Watchdog(contextlib.AbstractContextManager):
    """A thread that ends the process when the loop has stalled for too long.

    A collective that waits for a lost device, or a disk that does not respond, cannot
    be interrupted from its own thread. The stacks of all threads are first written to
    `stacks/` of the workdir. From the first beat on, at most train.stall_secs may pass
    between two beats, including the compilation of the first step, and at most
    train.grace_secs from a signal to the end of the `with` block.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: pathlib.Path,
        stop: lifecycle.StopRequest,
    ) -> None:
        self._folder, self._stop = workdir / "stacks", stop
        self._stall_secs, self._grace_secs = config.stall_secs, config.grace_secs
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._stop_seen: float | None = None
        self._last_beat: float | None = None

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def beat(self) -> None:
        """Records that the loop makes progress."""
        self._last_beat = time.monotonic()

    def expect_end(self) -> None:
        """Records that the loop was asked to stop, possibly by another process."""
        if self._stop_seen is None:
            self._stop_seen = time.monotonic()

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_SECS):
            if self._stop.requested:
                self.expect_end()
            now, beat = time.monotonic(), self._last_beat
            if self._stall_secs and beat and now - beat > self._stall_secs:
                self._end(
                    lifecycle.ExitCode.STALLED,
                    f"no step in train.stall_secs={self._stall_secs:g} seconds",
                )
            if self._stop_seen and now - self._stop_seen > self._grace_secs:
                self._end(
                    lifecycle.ExitCode.TERMINATED,
                    "nothing saved in the train.grace_secs="
                    f"{self._grace_secs:g} seconds since a signal",
                )

    def _end(self, code: lifecycle.ExitCode, reason: str) -> None:
        teller = threading.Thread(target=self._tell, args=(reason,), daemon=True)
        teller.start()
        teller.join(TELL_SECS)
        os._exit(code)

    def _tell(self, reason: str) -> None:
        """Writes the stacks of all threads to a file, and logs the reason."""
        told = "where every thread stood could not be written"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"process_{jax.process_index()}.txt"
            with path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {reason}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            told = f"where every thread stood is in {path}"
        except OSError:
            pass  # the disk may be what does not answer, or is full
        logging.error("ended: %s; %s; the same command goes on", reason, told)
        logging.shutdown()
        sys.stderr.flush()
